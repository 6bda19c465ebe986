"""What may stand in a configuration file, and what a fault in it is called.

Knows keys, types and texts for people. Must not know where files come from or how they are merged.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from p11host.config import File, Fork, Module, Source
from p11host.config_lines import Location, locate
from p11host.config_resume import BROKEN, BrokenField, PinSourceField, broken_pause, pin_source
from p11host.config_sandbox import SANDBOX_PATH, SandboxTable, Switch, absent_paths
from p11host.config_table import SaidError, Table
from p11host.config_view import (
    ProgramsField,
    RulesField,
    TokensField,
    programs,
    rules,
    tokens,
    too_many_selectors,
)
from p11host.limits import deadlines, limits
from p11host.paths import SOCKET_PATH_BYTES
from p11host.text import nearest
from p11host.view import View

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.@-]*\$?")
_DEADLINE_MOST = (1 << 31) - 1
_MILLISECONDS = f"milliseconds, 1 to {_DEADLINE_MOST}: every wait ends"
_PRIORITY_MOST = 1 << 31
_INTERVAL, _INTERVAL_LEAST, _INTERVAL_MOST = deadlines().look, 10, 3_600_000
_RESERVED_MOST = 1 << 14
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN = 40
_ROW_KEYS = ("tables", "structs", "types", "unions", "mechanisms", "contexts", "attributes", "constants")

NAME_RULE = "a name of a-z, 0-9, '_', '.' and '-' that begins with a letter or digit"


def is_module_name(name: str) -> bool:
    """Tell whether a module may be called `name`."""
    return _NAME.fullmatch(name) is not None and len(name) <= limits().name


def _name(value: str) -> str:
    return _demand(value, good=is_module_name(value))


def _absolute(value: str) -> str:
    return _demand(value, good=value.startswith("/") and "\0" not in value)


def _socket(value: str) -> str:
    return _demand(_absolute(value), good=len(value.encode()) <= SOCKET_PATH_BYTES)


def _variable(value: str) -> str:
    return _demand(value, good=_VARIABLE.fullmatch(value) is not None)


def _text(value: str) -> str:
    return _demand(value, good="\0" not in value)


def _account(value: str) -> str:
    return _demand(value, good=_ACCOUNT.fullmatch(value) is not None)


def _reserved(value: str) -> str:
    return _demand(_text(value), good=0 < len(value.encode()) <= _RESERVED_MOST)


def _demand(value: str, *, good: bool) -> str:
    """Return `value`; what was expected instead is the description of its key."""
    if not good:
        raise ValueError
    return value


Text = Annotated[str, AfterValidator(_text)]
Reserved = Annotated[str, AfterValidator(_reserved)]
Variable = Annotated[str, AfterValidator(_variable)]
Account = Annotated[str, AfterValidator(_account)]
Rows = dict[str, Any]
Milliseconds = Annotated[int, Field(ge=1, le=_DEADLINE_MOST)]


class DeadlinesTable(Table):
    """`deadlines = {short = …, long = …, start = …, list = …}`."""

    short: Milliseconds | None = Field(default=None, description=_MILLISECONDS)
    long: Milliseconds | None = Field(default=None, description=_MILLISECONDS)
    start: Milliseconds | None = Field(default=None, description=_MILLISECONDS)
    list: Milliseconds | None = Field(default=None, description=_MILLISECONDS)


class ModuleTable(Table):
    """`[module.NAME]`. A description says what is expected, in the words of an error."""

    path: Annotated[str, AfterValidator(_absolute)] = Field(
        description="the absolute path of a provider's .so"
    )
    env: dict[Variable, Text] = Field(
        default={}, description='environment variables and strings, { NAME = "value" }'
    )
    fork: Fork = Field(default="reinit", description='"reinit", "inherit" or "strict"')
    threads: Annotated[int, Field(ge=1, le=1)] | None = Field(default=None, description="1, or no such key")
    priority: Annotated[int, Field(ge=-_PRIORITY_MOST, lt=_PRIORITY_MOST)] = Field(
        default=0, description="a whole number, higher first"
    )
    reserved: Reserved | None = Field(
        default=None,
        description=f"a string of 1 to {_RESERVED_MOST} bytes without NUL, as the provider wants it",
    )
    enabled: bool = Field(default=True, description="true or false")
    spare: bool = Field(default=True, description="true or false")
    deadlines: DeadlinesTable = Field(
        default=DeadlinesTable(),
        description="{ short = milliseconds, long = milliseconds, start = milliseconds, list = … }",
    )
    sandbox: Switch = Field(
        default=SandboxTable(), description='"on", "off" or a table [module.NAME.sandbox] (docs/sandbox.md)'
    )
    resume: bool = Field(default=False, description="true or false")
    pin_source: PinSourceField | None = pin_source()
    broken: BrokenField = Field(default=(), description=BROKEN)
    broken_pause: int = broken_pause()
    event_interval: Annotated[int, Field(ge=_INTERVAL_LEAST, le=_INTERVAL_MOST)] = Field(
        default=_INTERVAL,
        alias="event-interval",
        description=f"milliseconds, {_INTERVAL_LEAST} to {_INTERVAL_MOST}",
    )
    event_wait: bool = Field(default=True, alias="event-wait", description="true or false")
    token_check: bool | None = Field(default=None, alias="token-check", description="true or false")
    user: Account | None = Field(default=None, description="the name of a user")
    group: Account | None = Field(default=None, description="the name of a group")
    enable_in: ProgramsField | None = programs("enable-in")
    disable_in: ProgramsField | None = programs("disable-in")
    allow: RulesField = rules()
    deny: RulesField = rules()
    tokens: TokensField = tokens()
    tables: list[Annotated[str, AfterValidator(_absolute)]] = Field(
        default=[], description='an array of files with a vendor\'s rows, ["/etc/p11host/nss.toml"]'
    )
    structs: Rows = Field(default={}, description="tables [structs.CK_X] as in specs/structs.toml")
    types: Rows = Field(default={}, description="arrays of names as in specs/structs.toml")
    unions: Rows = Field(default={}, description="tables [unions.CK_X] as in specs/structs.toml")
    mechanisms: Rows = Field(default={}, description="rows as in specs/mechanisms.toml")
    contexts: Rows = Field(default={}, description="tables [contexts.NAME] as in specs/mechanisms.toml")
    attributes: Rows = Field(default={}, description="rows as in specs/attributes.toml")
    constants: Rows = Field(default={}, description="tables as in specs/constants.toml")


class BrokerTable(Table):
    """`[broker]`."""

    socket: Annotated[str, AfterValidator(_socket)] | None = Field(
        default=None, description=f"an absolute path of at most {SOCKET_PATH_BYTES} bytes"
    )
    idle: Annotated[int, Field(ge=0, le=_DEADLINE_MOST)] | None = Field(
        default=None, description="whole seconds"
    )
    p11_kit: bool | None = Field(default=None, alias="p11-kit", description="true or false")


class FileTable(Table):
    """The whole file."""

    module: dict[Annotated[str, AfterValidator(_name)], ModuleTable] = Field(
        default={}, description="tables [module.NAME]"
    )
    broker: BrokerTable = Field(default=BrokerTable(), description="a table [broker]")


def check(source: Source, problems: list[str]) -> File | None:
    """Return what `source` says, or None after adding to `problems` every fault in it."""
    try:
        table = FileTable.model_validate(dict(source.table))
    except ValidationError as error:
        problems += _describe_all(source, error.errors(include_url=False))
        return None
    too_many = len(table.module) - limits().modules
    if too_many > 0:
        problems.append(
            f"{source.path}: {len(table.module)} modules; remove {too_many}, {limits().modules} are allowed"
        )
    broker = table.broker
    rows = {name: _rows(source, name, module, problems) for name, module in table.module.items()}
    for name, module in table.module.items():
        problems += too_many_selectors(source, name, module.tokens, (*module.allow, *module.deny))
        if module.enabled:
            problems += absent_paths(source, name, module.sandbox, module.env)
    return File(
        path=source.path,
        modules=tuple(
            module_of(name, module, source.path, rows[name]) for name, module in table.module.items()
        ),
        socket=None if broker.socket is None else Path(broker.socket),
        idle=broker.idle,
        p11kit=broker.p11_kit,
    )


def referred(source: Source) -> Iterator[Path]:
    """Yield the files with rows that modules name, as far as that can be told of what may be anything."""
    modules = source.table.get("module")
    for module in modules.values() if isinstance(modules, dict) else ():
        files = module.get("tables") if isinstance(module, dict) else ()
        yield from (Path(file) for file in files if isinstance(file, str)) if isinstance(files, list) else ()


def _rows(source: Source, name: str, table: ModuleTable, problems: list[str]) -> bytes:
    """Return the rows of a module's vendor as they travel, or b"" after noting what is wrong with them."""
    if not any(getattr(table, key) for key in _ROW_KEYS):
        return b""
    from p11host.config_rows import Place, packed  # noqa: PLC0415 (all of specs/: 60 ms)

    return packed(Place(source, name, [Path(file) for file in table.tables]), problems)


def module_of(name: str, table: ModuleTable, file: Path, rows: bytes = b"") -> Module:
    """Return the module that a table describes."""
    given, usual = table.deadlines, deadlines()
    return Module(
        name=name,
        path=Path(table.path),
        env=MappingProxyType(dict(table.env)),
        fork=table.fork,
        threads=table.threads,
        priority=table.priority,
        reserved=table.reserved,
        enabled=table.enabled,
        short=usual.short if given.short is None else given.short,
        long=usual.long if given.long is None else given.long,
        start=usual.start if given.start is None else given.start,
        list=usual.list if given.list is None else given.list,
        file=file,
        tables=tuple(Path(path) for path in table.tables),
        rows=rows,
        spare=table.spare,
        sandbox=table.sandbox.settings(),
        resume=table.resume,
        pin_source=table.pin_source,
        broken=table.broken,
        broken_pause=table.broken_pause,
        event_interval=table.event_interval,
        event_wait=table.event_wait,
        token_check=table.token_check,
        user=table.user,
        group=table.group,
        view=View(table.enable_in, table.disable_in, table.allow, table.deny, table.tokens),
    )


def _describe_all(source: Source, errors: Sequence[ErrorDetails]) -> Iterator[str]:
    """Yield each fault as `file:line: key: what is wrong`, in the order of the lines."""
    lines = locate(source.text)
    faults: dict[Location, str] = {}
    for error in errors:
        location = tuple(str(part) for part in error["loc"] if part != "[key]")
        faults.setdefault(location, _describe(error, location))
    for location, text in sorted(faults.items(), key=lambda fault: _line(lines, fault[0])):
        yield f"{source.path}:{_line(lines, location)}: {_dotted(location)}: {text}"


def _describe(error: ErrorDetails, location: Location) -> str:
    if error["type"] == "extra_forbidden":
        return f"unknown key; {_nearest(location[-1], list(fields_of(_table_at(location[:-1]))))}"
    fault = error.get("ctx", {}).get("error")
    if isinstance(fault, SaidError):
        return str(fault)
    expected = _expected(error, location)
    if error["type"] == "missing":
        return f"missing; expected {expected}"
    return f"expected {expected}, not {_shown(error['input'], location)}"


def _nearest(key: str, known: Sequence[str]) -> str:
    return nearest(key, known) or f"known are {', '.join(known)}"


def _expected(error: ErrorDetails, location: Location) -> str:
    if error["loc"][-1] == "[key]":
        in_env = len(location) > 2
        return "a variable's name" if in_env else f"{NAME_RULE}, at most {limits().name} bytes long"
    match location:
        case ("module", _):
            return "a table [module.NAME]"
        case ("module", _, "env", _):
            return "a string without NUL"
        case ("module", _, "tables", _):
            return "the absolute path of a file with a vendor's rows"
        case ("module", _, "sandbox", _, _):
            return SANDBOX_PATH
    field = fields_of(_table_at(location[:-1])).get(location[-1])
    return (field.description if field else None) or "something else"


def fields_of(table: type[Table]) -> dict[str, FieldInfo]:
    """Return the fields of a table by their keys in the file."""
    return {field.alias or name: field for name, field in table.model_fields.items()}


def _table_at(location: Location) -> type[Table]:
    """Return the schema of the table at `location`."""
    match location:
        case ("module", _):
            return ModuleTable
        case ("module", _, "deadlines"):
            return DeadlinesTable
        case ("module", _, "sandbox"):
            return SandboxTable
        case ("broker",):
            return BrokerTable
    return FileTable


def _shown(value: object, location: Location) -> str:
    """Return the faulty value for people; of what may hold a secret only its type."""
    kinds = {
        bool: "a boolean",
        int: "an integer",
        float: "a float",
        str: "a string",
        dict: "a table",
        list: "an array",
    }
    kind = kinds.get(type(value), "a date or time")
    if value == []:
        return "an empty one"
    if {"env", "reserved", "pin-source", "tokens"} & set(location) or isinstance(value, dict | list):
        return kind
    text = str(value).lower() if isinstance(value, bool) else ascii(value).replace("'", '"')
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _line(lines: Mapping[Location, int], location: Location) -> int:
    """Return the line of `location`, or of the nearest table around it that is written down."""
    while location and location not in lines:
        location = location[:-1]
    return lines.get(location, 1)


def _dotted(location: Location) -> str:
    return ".".join(part if _BARE.fullmatch(part) else f'"{part}"' for part in location)
