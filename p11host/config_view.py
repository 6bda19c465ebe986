"""What a module's table says of who may see it: `enable-in`, `disable-in`, `allow` and `deny`.

Knows keys and texts for people. What follows from them is p11host.peer's.
"""

import grp
import pwd
from typing import Annotated, Any

from pydantic import Field, PlainValidator

from p11host.view import Rule

_ID_MOST = (1 << 32) - 2
PROGRAMS = 'an array of programs\' names without directories, ["ssh", "firefox"]'
RULES = (
    "an array of rules { uid = …, gid = …, exe = … }, each with one of these: a user and a group that exist, "
    "by name or number, and an absolute path"
)


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
    if not isinstance(value, dict) or not value or set(value) - {"uid", "gid", "exe"}:
        raise ValueError
    return Rule(
        _id(value["uid"], lambda name: pwd.getpwnam(name).pw_uid) if "uid" in value else None,
        _id(value["gid"], lambda name: grp.getgrnam(name).gr_gid) if "gid" in value else None,
        _exe(value["exe"]) if "exe" in value else None,
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


ProgramsField = Annotated[tuple[str, ...], PlainValidator(_programs)]
RulesField = Annotated[tuple[Rule, ...], PlainValidator(_rules)]


def programs(alias: str) -> Any:
    """Return the field of `enable-in` or `disable-in`."""
    return Field(default=None, alias=alias, description=PROGRAMS)


def rules() -> Any:
    """Return the field of `allow` or `deny`."""
    return Field(default=(), description=RULES)
