"""What a module's table says of who may see what of it: `enable-in`, `disable-in`, `allow`, `deny`, `tokens`.

Knows keys and texts for people. What follows from them is p11host.peer's.
"""

import grp
import pwd
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import Field, PlainValidator

from p11host.config import Source
from p11host.config_lines import locate
from p11host.config_table import SaidError
from p11host.limits import limits
from p11host.selectors import Selection, pack, parse
from p11host.uri import Uri, UriError
from p11host.view import Rule

_ID_MOST = (1 << 32) - 2
_KEYS = {"uid", "gid", "exe", "tokens"}
PROGRAMS = 'an array of programs\' names without directories, ["ssh", "firefox"]'
RULES = (
    "an array of rules { uid = …, gid = …, exe = …, tokens = […] }, each with one of these: a user and a "
    "group that exist, by name or number, an absolute path, and token selectors"
)
TOKENS = 'an array of at least one PKCS#11 URI, ["pkcs11:token=mine;serial=1"]'


def _refuse() -> Any:
    """Say only that it is wrong: what was expected is the description of the key."""
    raise ValueError


def _programs(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(map(_is_program, value)):
        raise ValueError
    return tuple(value)


def _is_program(name: object) -> bool:
    return isinstance(name, str) and name != "" and not set(name) & set("/\0")


def _rules(value: object) -> tuple[Rule, ...]:
    return tuple(_rule(each) for each in value) if isinstance(value, list) else _refuse()


def _rule(value: object) -> Rule:
    if not isinstance(value, dict) or not value or set(value) - _KEYS:
        raise ValueError
    return Rule(
        _id(value["uid"], lambda name: pwd.getpwnam(name).pw_uid) if "uid" in value else None,
        _id(value["gid"], lambda name: grp.getgrnam(name).gr_gid) if "gid" in value else None,
        _exe(value["exe"]) if "exe" in value else None,
        _tokens(value["tokens"]) if "tokens" in value else (),
    )


def _id(value: object, find: Any) -> Any:
    try:
        number = find(value) if isinstance(value, str) else value
    except KeyError as error:
        raise ValueError from error
    right = isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= _ID_MOST
    return number if right else _refuse()


def _exe(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError
    return value


def _tokens(value: object) -> tuple[Uri, ...]:
    return tuple(_selector(each) for each in value) if isinstance(value, list) and value else _refuse()


def _selector(value: object) -> Uri:
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004 (pydantic's)
    try:
        return parse(value)
    except UriError as error:
        raise SaidError(str(error)) from error


ProgramsField = Annotated[tuple[str, ...], PlainValidator(_programs)]
RulesField = Annotated[tuple[Rule, ...], PlainValidator(_rules)]
TokensField = Annotated[tuple[Uri, ...], PlainValidator(_tokens)]


def too_many_selectors(
    source: Source, name: str, tokens: Sequence[Uri], rules: Sequence[Rule]
) -> Iterator[str]:
    """Yield a fault if a module has more selectors than a helper takes, whoever asks."""
    others = tuple(uri for rule in rules for uri in rule.tokens)
    size, most = len(pack(Selection((tuple(tokens),), others))), limits().view
    if (tokens or others) and size > most:
        line = locate(source.text).get(("module", name), 1)
        yield (
            f"{source.path}:{line}: module.{name}: token selectors of {size} bytes in all; remove some, "
            f"{most} are allowed"
        )


def programs(alias: str) -> Any:
    """Return the field of `enable-in` or `disable-in`."""
    return Field(default=None, alias=alias, description=PROGRAMS)


def rules() -> Any:
    """Return the field of `allow` or `deny`."""
    return Field(default=(), description=RULES)


def tokens() -> Any:
    """Return the field of `tokens`."""
    return Field(default=(), description=TOKENS)
