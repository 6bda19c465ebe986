"""Random calls for Hypothesis, in the form that caller.py reads.

Every argument is drawn by its kind in the tables, every mechanism's parameter by the tables' row. Left out is
what would crash a provider directly (a length for a NULL value) and what p11host refuses by its own promise
(parameters the tables do not describe).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cryptoki import constant, functions
from hypothesis import strategies as st
from objects import CURVE, OBJECTS, POINT, WRAPPED, template, ulong

from p11host.tables import Arg, Choice, Field, Function, Mechanism, tables

PIN = b"123456"
NO_HANDLE = [0, 0xFFFF_FFFF_0000_0002, (1 << 64) - 1]
SESSIONS = ("rw", "ro")
#: Not called: they would end the library, change the token or its PINs for good, or begin and end a run.
LEFT_OUT = {
    *("C_Initialize", "C_Finalize", "C_GetFunctionList", "C_WaitForSlotEvent", "C_GetInfo"),
    *("C_InitToken", "C_InitPIN", "C_SetPIN"),
    *("C_OpenSession", "C_CloseSession", "C_CloseAllSessions"),
}
#: These make keys whose parts have random lengths too: no two runs are alike. And they take their time.
UNLIKE = (
    "CKM_RSA_PKCS_KEY_PAIR_GEN",
    "CKM_RSA_X9_31_KEY_PAIR_GEN",
    "CKM_DSA_KEY_PAIR_GEN",
    "CKM_DH_PKCS_KEY_PAIR_GEN",
)
CIPHERS = ("AES_ECB", "AES_CBC", "AES_CBC_PAD", "AES_CTR", "AES_GCM", "RSA_PKCS", "RSA_PKCS_OAEP")
SIGNATURES = ("RSA_PKCS", "SHA256_RSA_PKCS", "RSA_PKCS_PSS", "SHA256_HMAC", "ECDSA", "AES_CMAC")
OPERATIONS = {
    "Encrypt": CIPHERS,
    "Decrypt": CIPHERS,
    "Sign": SIGNATURES,
    "Verify": SIGNATURES,
    "Digest": ("MD5", "SHA_1", "SHA256", "SHA512"),
}
KEYS = {
    "AES": ["aes"],
    "RSA": ["rsa", "rsa public"],
    "ECDSA": ["ec", "ec public"],
    "HMAC": ["hmac"],
    "": ["none"],
}

Call = list[Any]


def beginning() -> list[Call]:
    """Return the calls that every run begins with: sessions, login and objects."""
    rw, ro = constant("CKF_SERIAL_SESSION") | constant("CKF_RW_SESSION"), constant("CKF_SERIAL_SESSION")
    opened = [
        ["C_OpenSession", ["slot", flags, None, None, name]]
        for name, flags in zip(SESSIONS, (rw, ro), strict=True)
    ]
    login = ["C_Login", ["rw", constant("CKU_USER"), PIN]]
    return [*opened, login, *(["C_CreateObject", ["rw", row, name]] for name, row in OBJECTS.items())]


# ---- arguments, by the kind the tables give them ----


def mostly(
    usual: st.SearchStrategy[Any], other: st.SearchStrategy[Any], odds: int = 9
) -> st.SearchStrategy[Any]:
    """Draw from `usual` so many times for one time from `other`."""
    return st.integers(0, odds).flatmap(lambda n: other if n == odds else usual)


sizes = st.sampled_from([0, 1, 8, 15, 16, 17, 31, 32, 33, 64, 255, 256, 257, 1000, 5000])
texts = st.one_of(st.binary(max_size=40), sizes.map(lambda size: bytes(i % 256 for i in range(size))))
lengths = st.one_of(sizes, st.integers(0, 300))
numbers = st.one_of(st.integers(0, 4), st.sampled_from([(1 << 32) - 1, (1 << 64) - 1]))
sessions = mostly(st.sampled_from(SESSIONS), st.sampled_from(NO_HANDLE))
slots = st.sampled_from([*["slot"] * 8, "free", 0xFFFF_0000])
base_objects = tuple(OBJECTS)
handles = mostly(st.sampled_from([*base_objects, "new"]), st.sampled_from(NO_HANDLE))
attribute_types = mostly(
    st.sampled_from(sorted({kind for row in OBJECTS.values() for kind, _ in row})),
    st.sampled_from([attribute.value for attribute in tables().attributes.values()]),
    odds=3,
)


@st.composite
def attribute_values(draw: st.DrawFn, kind: int) -> Any:
    """Draw a value that suits the attribute, or one of a wrong length."""
    row = tables().attribute(kind)
    shapes: dict[str, st.SearchStrategy[bytes]] = {
        "bool": st.booleans().map(lambda value: bytes([value])),
        "ulong": st.integers(0, 40).map(ulong),
        "ulongs": st.lists(st.integers(0, 40), max_size=3).map(lambda all_: b"".join(map(ulong, all_))),
    }
    shape = shapes.get(row.kind, texts) if row else texts
    if row and row.kind == "template":
        return b""
    return draw(mostly(shape, texts, odds=4))


@st.composite
def templates(draw: st.DrawFn, *bases: list[list[Any]]) -> Any:
    """Draw a template: one that is right, changed in up to two places; sometimes NULL."""
    rows = list(draw(st.sampled_from(bases or [[], *OBJECTS.values()])))
    for _ in range(draw(mostly(st.just(0), st.integers(1, 2), odds=1))):
        kind = draw(attribute_types)
        rows.insert(draw(st.integers(0, len(rows))), [kind, draw(attribute_values(kind))])
    if rows and draw(mostly(st.just(value=False), st.just(value=True), odds=3)):
        rows.pop(draw(st.integers(0, len(rows) - 1)))
    token = constant("CKA_TOKEN")
    return draw(mostly(st.just([row for row in rows if row[0] != token]), st.none(), odds=19))


no_buffer = st.sampled_from([0, 8, 300]).map(lambda length: {"null": length})
queries = mostly(
    st.lists(st.tuples(attribute_types, mostly(lengths, no_buffer, odds=2)).map(list), max_size=6), st.none()
)
inputs = mostly(texts, st.none())


@st.composite
def buffers(draw: st.DrawFn, most: int = 5000) -> dict[str, Any]:
    """Draw an output buffer: NULL, too small, exact or too large, and sometimes no length at all."""
    capacity = draw(st.one_of(st.none(), lengths.map(lambda size: min(size, most)), st.just(min(most, 256))))
    length = capacity if capacity is not None else draw(st.sampled_from([0, 1, 300, 1 << 20]))
    return {"capacity": capacity, "length": draw(mostly(st.just(length), st.none(), odds=19))}


def exact_buffers() -> st.SearchStrategy[dict[str, Any]]:
    """Draw a buffer that is filled whole, long enough that two random ones are never alike."""
    sized = st.integers(16, 300).map(lambda size: {"capacity": size, "length": size})
    return mostly(
        sized, st.sampled_from([{"capacity": None, "length": 16}, {"capacity": 0, "length": 0}]), odds=2
    )


def found_objects() -> st.SearchStrategy[dict[str, Any]]:
    """Draw an array for handles."""
    some = st.integers(0, 12).map(lambda size: {"capacity": size, "length": size, "cell": True})
    return mostly(some, st.just({"capacity": None, "length": 4, "cell": True}))


# ---- mechanisms ----


def mechanisms(*names: str, context: str = "plain") -> st.SearchStrategy[list[Any]]:
    """Draw a mechanism with a parameter of one of the shapes that the tables give it."""
    known = [tables().mechanisms[name] for name in names] if names else list(tables().mechanisms.values())
    usual = [row for row in known if row.name not in UNLIKE]
    return st.sampled_from(usual).flatmap(
        lambda row: st.tuples(st.just(row.value), parameters(row, context)).map(list)
    )


def parameters(row: Mechanism, context: str) -> st.SearchStrategy[Any]:
    """Draw a parameter for a mechanism: none, or what one of its rows describes."""
    drawn = [_choice(choice) for choice in row.choices.get(context, ()) if _describable(choice)]
    return mostly(st.one_of(*drawn), st.none()) if drawn else st.none()


def _describable(choice: Choice) -> bool:
    fields = tables().structs[choice.struct].fields if choice.struct else ()
    return not choice.probe and choice.kind != "version" and all(_simple(field) for field in fields)


def _simple(field: Field) -> bool:
    counted = field.length is not None and field.length.unit in ("field", "bits") and bool(field.length.field)
    inline = not field.pointer and field.kind in ("ulong", "object", "byte", "fixed")
    return inline or (field.kind == "bytes" and counted and field.direction == "in")


def _choice(choice: Choice) -> st.SearchStrategy[Any]:
    if choice.kind == "bytes":
        usual = st.binary(min_size=choice.size, max_size=choice.size or 16)
        return mostly(usual, st.one_of(st.binary(max_size=20), st.just({"null": choice.size})), odds=4)
    if choice.kind == "struct":
        return structs(choice.struct)
    if choice.kind == "handle":
        return st.sampled_from(base_objects)  # the shim refuses one that is nobody's before the provider can
    return st.one_of(numbers, st.sampled_from([16, 64, 128]))


@st.composite
def structs(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """Draw a struct whose lengths are true, with numbers of which some are what a provider expects."""
    row = tables().structs[name]
    usual = [
        constant(name) for name in ("CKM_SHA_1", "CKG_MGF1_SHA1", "CKM_SHA256", "CKG_MGF1_SHA256", "CKD_NULL")
    ]
    fields: dict[str, Any] = {}
    for field in row.fields:
        fields[field.name] = draw(_field(field, usual))
    for field in row.fields:
        if field.length is not None and field.length.field:
            factor = 8 if field.length.unit == "bits" else 1
            fields[field.length.field] = len(fields[field.name] or b"") * factor
    return {"struct": name, "fields": fields}


def _field(field: Field, usual: Sequence[int]) -> st.SearchStrategy[Any]:
    if field.kind == "bytes":
        return st.sampled_from([POINT, bytes(16), bytes(32), b"some", None])
    if field.kind == "fixed":
        return st.binary(min_size=field.array, max_size=field.array)
    if field.kind == "object":
        return st.sampled_from(base_objects)
    return (
        st.integers(0, 255)
        if field.kind == "byte"
        else st.one_of(st.sampled_from([*usual, 20, 128]), numbers)
    )


# ---- calls ----

_KINDS: Mapping[str, Callable[[Function], st.SearchStrategy[Any]]] = {
    "session": lambda _: sessions,
    "slot": lambda _: slots,
    "object": lambda _: handles,
    "ulong": lambda _: numbers,
    "flags": lambda _: numbers,
    "bool": lambda _: st.integers(0, 1),
    "bytes": lambda _: inputs,
    "template": lambda _: templates(),
    "inout template": lambda _: queries,
    "mechanism": lambda function: mechanisms(context=function.context),
    "out bytes": lambda _: buffers(),
    "out exact": lambda _: exact_buffers(),
    "out ulongs": lambda _: buffers(most=300),
    "out slots": lambda _: buffers(most=300),
    "out objects": lambda _: found_objects(),
    "out ulong": lambda _: st.just(value=True),
    "out object": lambda _: st.just("new"),
    "out struct": lambda _: st.just(value=True),
    "reserved": lambda _: st.none(),
}


def argument(function: Function, arg: Arg) -> st.SearchStrategy[Any]:
    """Draw one argument of a function."""
    return _KINDS[arg.kind](function)


def call(name: str, **given: st.SearchStrategy[Any]) -> st.SearchStrategy[Call]:
    """Draw a call of one function; `given` takes the place of what its tables would draw."""
    function = tables().functions[name]
    arguments = [given[arg.name] if arg.name in given else argument(function, arg) for arg in function.args]
    return st.tuples(st.just(name), st.tuples(*arguments).map(list)).map(list)


def key_call(
    name: str, *mechanism_names: str, keys: Sequence[str] = ("aes",), **given: st.SearchStrategy[Any]
) -> st.SearchStrategy[Call]:
    """Draw a call that makes a key, with a mechanism that may do it."""
    fitting = {arg: st.sampled_from(keys) for arg in ("hBaseKey", "hWrappingKey", "hUnwrappingKey", "hKey")}
    fitting |= {arg: templates(*NEW_KEYS[arg]) for arg in NEW_KEYS}
    return call(name, pMechanism=mechanisms(*mechanism_names), **fitting, **given)


_SECRET = template(CLASS="CKO_SECRET_KEY", KEY_TYPE="CKK_AES", SENSITIVE=False, EXTRACTABLE=True)
_PLAIN = template(SENSITIVE=False, EXTRACTABLE=True)
NEW_KEYS = {
    "pTemplate": (_PLAIN, _PLAIN + template(VALUE_LEN=16), _SECRET, _SECRET + template(VALUE_LEN=32)),
    "pPublicKeyTemplate": (template(EC_PARAMS=CURVE, VERIFY=True),),
    "pPrivateKeyTemplate": (template(SIGN=True, SENSITIVE=True),),
}
wrapped = mostly(st.just(WRAPPED), texts, odds=2)
changes = templates(template(LABEL=b"copy"), template(ID=b"copy", EXTRACTABLE=False))
FREQUENT = (
    *["C_GetAttributeValue"] * 3,
    *("C_CreateObject", "C_CopyObject", "C_SetAttributeValue", "C_GetObjectSize", "C_GenerateRandom"),
    *("C_GetMechanismInfo", "C_GetMechanismList", "C_GetTokenInfo", "C_GetSessionInfo"),
)
INITS = [f"C_{verb}Init" for verb in ("Encrypt", "Decrypt", "Sign", "Verify")]
any_call = st.one_of(
    st.sampled_from([f.name for f in functions() if f.name not in {*LEFT_OUT, *INITS}]).flatmap(call),
    # With a real key of another type SoftHSM reads memory that is not the key's: see operation().
    st.sampled_from(INITS).flatmap(lambda name: call(name, hKey=st.sampled_from(NO_HANDLE))),
    st.sampled_from(FREQUENT).flatmap(call),
    key_call("C_GenerateKey", "CKM_AES_KEY_GEN", "CKM_GENERIC_SECRET_KEY_GEN", "CKM_DES3_KEY_GEN"),
    key_call("C_GenerateKeyPair", "CKM_EC_KEY_PAIR_GEN"),
    key_call("C_DeriveKey", "CKM_ECDH1_DERIVE", keys=["ec"]),
    key_call("C_DeriveKey", "CKM_AES_ECB_ENCRYPT_DATA", "CKM_AES_CBC_ENCRYPT_DATA"),
    key_call("C_WrapKey", "CKM_AES_KEY_WRAP", "CKM_RSA_PKCS", keys=["aes", "rsa public", "hmac"]),
    key_call("C_UnwrapKey", "CKM_AES_KEY_WRAP", "CKM_RSA_PKCS", keys=["aes", "rsa"], pWrappedKey=wrapped),
    st.sampled_from(["C_CopyObject", "C_SetAttributeValue"]).flatmap(
        lambda name: call(name, pTemplate=changes)
    ),
)


@st.composite
def operation(draw: st.DrawFn) -> list[Call]:
    """Draw an operation that a provider can often do: begun with a fitting key, then fed, in parts or not."""
    verb = draw(st.sampled_from(sorted(OPERATIONS)))
    name = draw(st.sampled_from(OPERATIONS[verb]))
    fitting = next(keys for part, keys in KEYS.items() if part in name)
    session = st.just(draw(st.sampled_from(SESSIONS)))
    begin = {"hSession": session, "pMechanism": mechanisms(f"CKM_{name}"), "hKey": st.sampled_from(fitting)}
    calls = [draw(call(f"C_{verb}Init", **begin))]
    steps = [f"C_{verb}", f"C_{verb}", f"C_{verb}Update", f"C_{verb}Final"]
    steps = draw(st.lists(st.sampled_from(steps), min_size=1, max_size=4))
    return calls + [draw(call(step, hSession=session)) for step in steps]


@st.composite
def search(draw: st.DrawFn) -> list[Call]:
    """Draw a search for objects, which may end early."""
    session = st.just(draw(st.sampled_from(SESSIONS)))
    steps = ["C_FindObjectsInit", "C_FindObjects", "C_FindObjects", "C_FindObjectsFinal"]
    return [draw(call(step, hSession=session)) for step in steps]


runs = st.lists(
    st.one_of(operation(), any_call.map(lambda one: [one]), search()), min_size=3, max_size=12
).map(lambda parts: [one for part in parts for one in part])
