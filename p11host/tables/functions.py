"""Functions and their arguments: specs/functions.toml and specs/returns.toml.

Knows the grammar of an argument and the C arguments it stands for; knows nothing of the wire or of C text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .source import SINCE, Source
from .structs import Struct, Types
from .values import Constant

CONTEXTS = ("plain", "wrap", "message-init", "message")
"""What a function does with a mechanism, on which its parameter depends."""

PATIENCES = ("short", "long", "forever")
"""How long a call may take: keys of [deadlines] in specs/limits.toml."""

ROLES = {
    "begin": "mechanism",
    "continue": "",
    "end": "",
    "use": "message",
    "finish": "",
    "cancel": "flags",
    "open": "out session",
    "close": "",
}
"""What a function does with an operation, and the kind of argument it needs for that."""

OPERATIONS = (
    *("encrypt", "decrypt", "digest", "sign", "sign-recover", "verify", "verify-recover"),
    *("message-encrypt", "message-decrypt", "message-sign", "message-verify"),
)
"""Operations of a session that begin with a mechanism. CKF_ENCRYPT is the flag of ``encrypt``, and so on."""

EFFECTS = {
    "login": "CK_USER_TYPE",
    "login-by-name": "CK_USER_TYPE",
    "logout": "",
    "destroy": "CK_OBJECT_HANDLE",
    "change": "CK_OBJECT_HANDLE",
    "search": "",
    "find": "CK_OBJECT_HANDLE*",
}
"""What a function does beside its operation, and the C type of the one argument that it does it to."""

KINDS: dict[str, tuple[str, ...]] = {
    "session": ("CK_SESSION_HANDLE",),
    "slot": ("CK_SLOT_ID",),
    "object": ("CK_OBJECT_HANDLE",),
    "ulong": ("CK_ULONG",),
    "flags": ("CK_FLAGS",),
    "bool": ("CK_BBOOL",),
    "bytes": ("CK_BYTE*", "CK_ULONG"),
    "fixed": ("CK_BYTE*",),
    "string": ("CK_UTF8CHAR*",),
    "template": ("CK_ATTRIBUTE*", "CK_ULONG"),
    "inout template": ("CK_ATTRIBUTE*", "CK_ULONG"),
    "mechanism": ("CK_MECHANISM*",),
    "message": ("void*", "CK_ULONG"),
    "out bytes": ("CK_BYTE*", "CK_ULONG*"),
    "out exact": ("CK_BYTE*", "CK_ULONG"),
    "out ulong": ("CK_ULONG*",),
    "out slot": ("CK_SLOT_ID*",),
    "out session": ("CK_SESSION_HANDLE*",),
    "out object": ("CK_OBJECT_HANDLE*",),
    "out ulongs": ("CK_ULONG*", "CK_ULONG*"),
    "out slots": ("CK_SLOT_ID*", "CK_ULONG*"),
    "out objects": ("CK_OBJECT_HANDLE*", "CK_ULONG", "CK_ULONG*"),
    "reserved": ("void*",),
}
"""C types of each kind's C arguments: the value or the pointer, then its lengths and counts.

Two kinds more have a type of their own: ``out struct`` and ``local``.
"""

_KEYS = "context operation effect patience secret local without"
_WITHOUT = re.compile(r"(?:(\w+)|(\w+)\.(\w+)) (CKF_\w+)(?:: (CKR_\w+))?")
_OPTIONAL = ("object", "mechanism")
_ARG = re.compile(r"(\w+) ((?:out |inout )?)([a-z]+)(\??)(?:\[([\w, ]*)\])?(?: : (\w+))?")
_OUT_STRUCT = re.compile(r"(\w+) out (CK_\w+)")
_LOCAL = re.compile(r"(\w+) local (\w+\**)")


@dataclass(frozen=True)
class Arg:
    """One logical argument: a value, or a pointer with its lengths."""

    name: str
    kind: str
    """A key of KINDS, ``out struct`` or ``local``."""
    words: tuple[tuple[str, str], ...]
    """The C arguments it stands for, as (type, name)."""
    optional: bool = False
    """A handle that may be 0 for none, a mechanism that may be NULL."""
    size: int = 0
    """Bytes of a ``fixed``."""
    struct: str = ""
    """Name of the struct of an ``out struct``."""

    @property
    def direction(self) -> str:
        """``in``, ``out`` or ``inout``. Providers write into mechanisms and messages: both are inout."""
        if self.kind in ("mechanism", "message", "inout template"):
            return "inout"
        return "out" if self.kind.startswith("out ") else "in"


@dataclass(frozen=True)
class Without:
    """A flag of the standard that this library does not have, though a provider might."""

    pos: int
    """Place of the C argument among all of its function."""
    struct: str
    """Of an ``out struct``: the flag is cleared in what the provider tells."""
    field: str
    flag: str
    refusal: str
    """Of a number: the CKR for a call that asks for the flag."""


@dataclass(frozen=True)
class Operation:
    """The place of a function in operations of its session."""

    role: str
    """A key of ROLES."""
    names: tuple[str, ...]
    """Of OPERATIONS; none for roles that are about the session."""

    @property
    def flags(self) -> tuple[str, ...]:
        """The operations by the names of their flags in CK_MECHANISM_INFO."""
        return tuple(f"CKF_{name.upper().replace('-', '_')}" for name in self.names)


@dataclass(frozen=True)
class Effect:
    """What a function does beside its operation."""

    name: str
    """A key of EFFECTS."""
    pos: int
    """Place of the C argument that says to what; 0 where that is nobody's."""


@dataclass(frozen=True)
class Function:
    """One Cryptoki function."""

    name: str
    index: int
    """Place in CK_FUNCTION_LIST_3_2."""
    since: str
    args: tuple[Arg, ...]
    context: str
    """One of CONTEXTS."""
    patience: str
    """One of PATIENCES."""
    secret: bool
    """Carries PINs, key material or plaintext: every buffer it used is wiped."""
    local: bool
    """Answered in the application's process."""
    without: Without | None
    operation: Operation | None
    effect: Effect | None
    returns: frozenset[str]
    """CKR names that the standard allows; CKR_FUNCTION_NOT_SUPPORTED is always allowed."""

    @property
    def words(self) -> tuple[tuple[str, str], ...]:
        """The C arguments, as (type, name)."""
        return tuple(word for arg in self.args for word in arg.words)

    @property
    def gone(self) -> str:
        """The CKR for a helper that died during the call: its token was removed meanwhile."""
        return self._first("CKR_DEVICE_REMOVED", "CKR_DEVICE_ERROR")

    @property
    def absent(self) -> str:
        """The CKR for a call when there is no helper to ask."""
        kinds = {arg.kind for arg in self.args}
        if "session" in kinds:
            return "CKR_SESSION_HANDLE_INVALID"
        return self._first("CKR_TOKEN_NOT_PRESENT", "CKR_DEVICE_ERROR") if "slot" in kinds else self._first()

    def _first(self, *codes: str) -> str:
        """Return the first CKR that the function may return."""
        return next((code for code in codes if code in self.returns), "CKR_GENERAL_ERROR")


@dataclass(frozen=True)
class _Reader:
    """Reads functions.toml."""

    source: Source
    types: Types
    structs: Mapping[str, Struct]
    constants: Mapping[str, Constant]

    def function(self, name: str, index: int, returns: frozenset[str]) -> Function:
        """Read one function."""
        path = (name,)
        row = self.source.row(path, self.source.data[name], "since args", _KEYS)
        args = tuple(self.arg(path, text) for text in self.source.strings(path, "args", row["args"]))
        self.check_names(path, args)
        return Function(
            name=name,
            index=index,
            since=self.source.since(path, row),
            args=args,
            context=self.source.choice(path, "context", row.get("context", "plain"), CONTEXTS),
            patience=self.source.choice(path, "patience", row.get("patience", "short"), PATIENCES),
            secret=self.source.flag(path, row, "secret", default=False),
            local=self.source.flag(path, row, "local", default=False),
            without=self.without(path, row["without"], args) if "without" in row else None,
            operation=self.operation(path, row["operation"], args) if "operation" in row else None,
            effect=self.effect(path, row["effect"], args) if "effect" in row else None,
            returns=returns,
        )

    def without(self, path: tuple[str, ...], text: object, args: tuple[Arg, ...]) -> Without:
        """Read ``without``."""
        found = _WITHOUT.fullmatch(text) if isinstance(text, str) else None
        if not found or bool(found[1]) != bool(found[5]):
            self.source.fail(path, f'without: expected "ARG FLAG: CKR" or "ARG.FIELD FLAG", not {text!r}')
        number, whole, field, flag, refusal = found.groups(default="")
        for name in filter(None, (flag, refusal)):
            if name not in self.constants:
                self.source.fail(path, f"without: no constant {name}")
        pos = 0
        for arg in args:
            fields = [each.name for each in self.structs[arg.struct].fields] if arg.struct else []
            if (arg.name == number and arg.kind == "flags") or (arg.name == whole and field in fields):
                return Without(pos, arg.struct, field, flag, refusal)
            pos += len(arg.words)
        return self.source.fail(path, f"without: no flags in {text!r}")

    def operation(self, path: tuple[str, ...], text: object, args: tuple[Arg, ...]) -> Operation:
        """Read ``operation``."""
        role, *names = (text.split() if isinstance(text, str) else None) or [""]
        if role not in ROLES:
            self.source.fail(path, f"operation: expected one of {', '.join(ROLES)}, not {text!r}")
        if not names and role not in ("cancel", "open", "close"):
            self.source.fail(path, f"operation: {role} what?")
        for name in names:
            self.source.choice(path, "operation", name, OPERATIONS)
        if ROLES[role] and ROLES[role] not in {arg.kind for arg in args}:
            self.source.fail(path, f"operation: {role} needs an argument of kind {ROLES[role]}")
        return Operation(role, tuple(names))

    def effect(self, path: tuple[str, ...], name: object, args: tuple[Arg, ...]) -> Effect:
        """Read ``effect``."""
        effect = self.source.choice(path, "effect", name, tuple(EFFECTS))
        wanted = EFFECTS[effect]
        types = [kind for arg in args for kind, _ in arg.words]
        if wanted and types.count(wanted) != 1:
            self.source.fail(path, f"effect: {effect} needs one argument of type {wanted}")
        return Effect(effect, types.index(wanted) if wanted else 0)

    def arg(self, path: tuple[str, ...], text: str) -> Arg:
        """Read one argument of ``args``."""
        if found := _LOCAL.fullmatch(text):
            return Arg(found[1], "local", ((found[2], found[1]),))
        if found := _OUT_STRUCT.fullmatch(text):
            struct = self.structs.get(found[2])
            if not struct or not struct.layout:
                self.source.fail(path, f"{text!r}: no struct {found[2]} to carry", item=text)
            return Arg(found[1], "out struct", ((f"{found[2]}*", found[1]),), struct=found[2])
        return self.plain_arg(path, text)

    def plain_arg(self, path: tuple[str, ...], text: str) -> Arg:
        """Read one argument of a kind in KINDS."""
        found = _ARG.fullmatch(text)
        if not found:
            self.source.fail(path, f"{text!r}: expected NAME [out|inout] KIND[LENGTHS] [: TYPE]", item=text)
        name, direction, kind, optional, brackets, of = found.groups(default="")
        kind = direction + kind
        if kind not in KINDS:
            self.source.fail(path, f"{text!r}: unknown kind {kind!r}", item=text)
        if optional and kind not in _OPTIONAL:
            self.source.fail(path, f"{text!r}: only {' and '.join(_OPTIONAL)} may be optional", item=text)
        size = self.size(path, text, brackets) if kind == "fixed" else 0
        lengths = [] if size else [word.strip() for word in brackets.split(",") if word.strip()]
        first, *others = KINDS[kind]
        if len(lengths) != len(others):
            wanted = f"{text!r}: {kind} names {len(others)} length arguments, not {len(lengths)}"
            self.source.fail(path, wanted, item=text)
        words = zip((self.type(path, text, first, of), *others), (name, *lengths), strict=True)
        return Arg(name, kind, tuple(words), optional=bool(optional), size=size)

    def size(self, path: tuple[str, ...], text: str, brackets: str) -> int:
        """Return the bytes of a ``fixed``."""
        if not brackets.isdigit() or not 0 < int(brackets) < 1 << 16:
            self.source.fail(path, f"{text!r}: expected fixed[BYTES]", item=text)
        return int(brackets)

    def type(self, path: tuple[str, ...], text: str, usual: str, of: str) -> str:
        """Return the C type of an argument: the usual one of its kind, or ``of`` in its place."""
        base = usual.rstrip("*")
        if of and (of not in self.types.base or self.types.base[of] != self.types.base.get(base)):
            self.source.fail(path, f"{text!r}: expected another name of {base}, not {of}", item=text)
        return usual.replace(base, of) if of else usual

    def check_names(self, path: tuple[str, ...], args: tuple[Arg, ...]) -> None:
        """Check that no two C arguments have one name."""
        seen: set[str] = set()
        for arg in args:
            for _, word in arg.words:
                if word in seen:
                    self.source.fail(path, f"two C arguments are named {word!r}", item=f'"{arg.name} ')
                seen.add(word)


def _words(source: Source, section: str) -> dict[str, frozenset[str]]:
    """Return the rows of a section of returns.toml, each a set of words."""
    rows = {}
    for name, words in source.table(section).items():
        if not isinstance(words, str):
            source.fail((section, name), f"expected words in one string, not {words!r}")
        rows[name] = frozenset(words.split())
    return rows


def _returns(source: Source, codes: frozenset[str]) -> dict[str, frozenset[str]]:
    """Return the CKR names that each function may return, sets resolved; ``*`` is all of ``codes``."""
    sets = _words(source, "sets")
    for name, words in sets.items():
        for word in sorted(words - codes):
            source.fail(("sets", name), f"expected the name of a CKR, not {word!r}", item=word)
    sets["*"] = codes
    allowed: dict[str, frozenset[str]] = {}
    for name, words in _words(source, "functions").items():
        for word in sorted(words - codes - sets.keys()):
            source.fail(("functions", name), f"expected a CKR or a set, not {word!r}", item=word)
        allowed[name] = frozenset().union(*(sets.get(word, {word}) for word in words))
    return allowed


def load_functions(
    source: Source,
    returns: Source,
    constants: Mapping[str, Constant],
    types: Types,
    structs: Mapping[str, Struct],
) -> Mapping[str, Function]:
    """Return every function by name, in the order of CK_FUNCTION_LIST_3_2."""
    allowed = _returns(returns, frozenset(each.name for each in constants.values() if each.kind == "ckr"))
    for name in allowed.keys() - source.data.keys():
        returns.fail(("functions", name), "no such function in functions.toml")
    reader = _Reader(source, types, structs, constants)
    functions: dict[str, Function] = {}
    newest = SINCE[0]
    for index, name in enumerate(source.data):
        if name not in allowed:
            source.fail((name,), "expected a row in returns.toml")
        function = functions[name] = reader.function(name, index, allowed[name])
        if SINCE.index(function.since) < SINCE.index(newest):
            source.fail((name,), f"since {function.since} follows {newest}: the order is that of the list")
        newest = function.since
    return functions
