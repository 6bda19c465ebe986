"""A vendor's rows in the configuration: its mechanisms and attributes are carried as the standard's are."""

import ctypes
import re
import shutil
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgpack
import pytest
from brokers import module
from cryptoki import ULONG, Library, constant
from life import TESTS, Host, Workshop, hosted
from mirror_structs import structs_h

from p11host import P11HostError, narrow_helper_path, shim_path
from p11host.config import choose, load
from p11host.config_lines import locate
from p11host.tables import Tables, tables
from p11host.tables.rows import pack
from p11host.tables.vendor import overlay, vendor_source

pytest_plugins = ["life_fixtures"]

ACME = TESTS / "acme.toml"
VENDORS = sorted((TESTS.parent / "conf" / "vendors").glob("*.toml"))
SAID = 0x80004D00
UNTOLD = 64
ROOM = 1 << 16
OK, REFUSED = "CKR_OK", "CKR_MECHANISM_PARAM_INVALID"


@cache
def acme() -> Tables:
    """Return the standard's tables with the rows of acme.toml."""
    text = ACME.read_text()
    return overlay(tables(), vendor_source(str(ACME), text, tomllib.loads(text), locate(text), ()))


# ---- a provider that knows them: the mirror, compiled with them ----


def header() -> str:
    """Return what a vendor's header would say."""
    known = acme()
    new = [row for name, row in known.structs.items() if name not in tables().structs]
    lines = [
        f"typedef {base} {name};"
        for name, base in known.types.base.items()
        if name not in tables().types.base
    ]
    for row in new:
        fields = [
            f"{field.base} {'*' * field.pointer}{field.name}{array(field.array)};" for field in row.fields
        ]
        lines.append(f"typedef struct {row.name} {{ {' '.join(fields)} }} {row.name};")
    lines += [f"#define {c.name} {c.value}UL" for c in known.constants.values() if c.kind == "acme"]
    return "\n".join(['#include "cryptoki.h"', *lines, ""])


def array(count: int) -> str:
    """Return the brackets of a field that is an array."""
    return f"[{count}]" if count else ""


@pytest.fixture(scope="module")
def acme_workshop(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Return what compiles the mirror so that it knows acme's structs."""
    includes = Path(shutil.copytree(workshop.includes, tmp_path_factory.mktemp("acme") / "includes"))
    (includes / "mirror_structs.h").write_text(header() + structs_h(acme()))
    return Workshop(tmp_path_factory.mktemp("acme-made"), includes)


@pytest.fixture(scope="module")
def provider(acme_workshop: Workshop) -> Path:
    """Return the mirror that knows acme's structs."""
    return acme_workshop.provider("mirror")


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, acme_workshop: Workshop) -> Iterator[Host]:
    """Return a broker with that mirror in a helper of 32 bits."""
    try:
        narrow_helper_path()
    except P11HostError as error:
        pytest.skip(str(error))
    env = {"MIRROR_UNTOLD": str(UNTOLD)}
    mirror = module("acme", acme_workshop.provider("mirror", "-m32"), env=env, tables=[str(ACME)])
    with hosted(tmp_path_factory.mktemp("narrow"), mirror) as host:
        yield host


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory, provider: Path) -> Iterator[Host]:
    """Return a broker with three modules: with acme's rows, with none, and with rows that are inline."""
    env = {"MIRROR_UNTOLD": str(UNTOLD)}
    inline = module("inline", provider, env=env) + (
        "[module.inline.mechanisms]\n"
        'CKM_ACME_FLAT = { value = 0x80000a03, param = "bytes out" }\n'
        "[module.inline.structs.CK_X2RATCHET_RESPOND_PARAMS]\n"
        'lengths = { sk = "=64" }\n'
    )
    modules = [
        module("acme", provider, env=env, tables=[str(ACME)]),
        module("plain", provider, env=env),
        inline,
    ]
    with hosted(tmp_path_factory.mktemp("vendor"), *modules) as host:
        yield host


# ---- what an application does, and what it sees ----


@cache
def ctype(name: str) -> Any:
    """Return a struct of acme's or of the standard's."""
    fields: list[Any] = []
    for field in acme().structs[name].fields:
        base = ctypes.c_void_p if field.pointer else value_type(field.base)
        fields.append((field.name, base * field.array if field.array else base))
    return type(name, (ctypes.Structure,), {"_fields_": fields})


def value_type(name: str) -> Any:
    """Return the ctypes type of a field that is no pointer."""
    if name in acme().structs:
        return ctype(name)
    return ctypes.c_ubyte if acme().types.base[name] == "CK_BYTE" else ULONG


def address(of: Any) -> int:
    """Return where something lies, None where it is NULL."""
    return ctypes.addressof(of)


class Calls:
    """A session with a provider, reached by a library."""

    def __init__(self, path: str, slot: int) -> None:
        self.library = Library(path)
        self.must("C_Initialize", None)
        slots, count = (ULONG * 16)(), ULONG(16)
        self.must("C_GetSlotList", 1, slots, ctypes.byref(count))
        session = ULONG()
        self.must("C_OpenSession", slots[slot], 6, None, None, ctypes.byref(session))
        self.session = session.value
        found = (ULONG * 64)()
        self.must("C_FindObjectsInit", self.session, None, 0)
        self.must("C_FindObjects", self.session, found, 64, ctypes.byref(count))
        self.objects = list(found[: count.value])

    def rv(self, name: str, *words: Any) -> str:
        """Call a function and return the name of its CK_RV."""
        rv = self.library.call(name, *words)
        known = tables().constant("ckr", rv)
        return known.name if known else hex(rv)

    def must(self, name: str, *words: Any) -> None:
        """Call a function that returns CKR_OK."""
        rv = self.rv(name, *words)
        assert rv == OK, f"{name} returned {rv}"

    def said(self) -> str:
        """Return what the mirror saw of the last call."""
        room = ctypes.create_string_buffer(ROOM)
        asked = ctype("CK_ATTRIBUTE")(SAID, address(room), ROOM)
        self.must("C_GetAttributeValue", self.session, self.objects[0], ctypes.byref(asked), 1)
        return room.raw[: asked.ulValueLen].decode()

    def place(self, handle: int) -> int:
        """Return the place of an object among all: the same by every way."""
        return self.objects.index(handle)

    def begin(self, mechanism: int, parameter: Any, length: int | None = None) -> list[str]:
        """Begin to encrypt; return the CK_RV, and what the mirror saw if it was reached."""
        size = ctypes.sizeof(parameter) if length is None else length
        given = ctype("CK_MECHANISM")(mechanism, address(parameter), size)
        rv = self.rv("C_EncryptInit", self.session, ctypes.byref(given), self.objects[1])
        return [rv, self.said() if rv == OK else ""]


def make_params(calls: Calls) -> tuple[Any, dict[str, Any]]:
    """Return a CK_ACME_PARAMS with something behind every pointer, and what lies there."""
    item = ctype("CK_ACME_ITEM")
    kept: dict[str, Any] = {
        "data": (ctypes.c_ubyte * 7)(*range(7)),
        "tag": (ctypes.c_ubyte * 12)(*range(12)),
        "iv": (ctypes.c_ubyte * 9)(),
        "count": ULONG(1000),
        "label": ctypes.create_string_buffer(b"a label"),
        "number": ULONG(77),
        "key": ULONG(calls.objects[3]),
        "pair": ctype("CK_ACME_PAIR")(5, 0x8000_0001),
        "bytes": (ctypes.c_ubyte * 3)(9, 8, 7),
        "oaep": ctype("CK_RSA_PKCS_OAEP_PARAMS")(1, 2, 3, None, 0),
        "value": ULONG(4),
    }
    kept["result"] = ctype("CK_ACME_RESULT")(0, address(kept["iv"]))
    named = [(1, "number"), (2, "key"), (0x8000_0003, "pair"), (99, "bytes")]
    kept["items"] = (item * 4)(
        *((tag, address(kept[name]), ctypes.sizeof(kept[name])) for tag, name in named)
    )
    kept["mechanism"] = ctype("CK_MECHANISM")(
        constant("CKM_RSA_PKCS_OAEP"), address(kept["oaep"]), ctypes.sizeof(kept["oaep"])
    )
    kept["template"] = (ctype("CK_ATTRIBUTE") * 1)(
        (0x8000_0A01, address(kept["value"]), ctypes.sizeof(ULONG))
    )
    params = ctype("CK_ACME_PARAMS")(
        flag=1,
        pair=ctype("CK_ACME_PAIR")(3, 4),
        salt=(ctypes.c_ubyte * 5)(1, 2, 3, 4, 5),
        ulIvBits=68,
        pResult=address(kept["result"]),
        pData=address(kept["data"]),
        ulDataLen=7,
        pTag=address(kept["tag"]),
        ulTagBits=96,
        pulCount=address(kept["count"]),
        pItems=address(kept["items"]),
        ulItems=4,
        pLabel=address(kept["label"]),
        pMechanism=address(kept["mechanism"]),
        pTemplate=address(kept["template"]),
        ulAttributes=1,
    )
    return params, kept


def act_struct(path: str) -> list[Any]:
    """Give a struct of the vendor's; return what came of it, outputs too."""
    calls = Calls(path, 0)
    params, kept = make_params(calls)
    came = calls.begin(0x8000_0A01, params)
    handle = calls.place(kept["result"].hKey)
    return [*came, handle, bytes(kept["iv"]).hex(), bytes(kept["tag"]).hex(), kept["count"].value]


def act_wrong(path: str, slot: int) -> list[str]:
    """Give mechanisms what they do not take; return the CK_RVs."""
    calls = Calls(path, slot)
    params, _ = make_params(calls)
    nowhere, _ = make_params(calls)
    nowhere.pNowhere = address(params)
    return [
        calls.begin(0x8000_0A01, params, ctypes.sizeof(params) - 1)[0],
        calls.begin(0x8000_0A01, nowhere)[0],
        calls.begin(0x8000_0A04, ULONG(1))[0],
        calls.begin(0x8000_0AFF, ULONG(1))[0],
    ]


def act_bytes(path: str, slot: int) -> list[Any]:
    """Give a parameter that is bytes, which the provider writes; return what came of it."""
    calls = Calls(path, slot)
    flat = (ctypes.c_ubyte * 24)(*range(24))
    return [*calls.begin(0x8000_0A03, flat), bytes(flat).hex()]


def act_by_use(path: str) -> list[Any]:
    """Give one mechanism to functions that use it for different things; return what the mirror saw."""
    calls = Calls(path, 0)
    params, _ = make_params(calls)
    seen = [calls.begin(0x8000_0A02, params), calls.begin(0x8000_0A02, (ctypes.c_ubyte * 5)(1, 2, 3, 4, 5))]
    given = ctype("CK_MECHANISM")(0x8000_0A02, address(one := ULONG(300)), ctypes.sizeof(one))
    words = [ctypes.byref(given), calls.objects[0], calls.objects[1], None, ctypes.byref(ULONG(0))]
    return [seen, calls.rv("C_WrapKey", calls.session, *words), calls.said()]


def act_untold(path: str, slot: int) -> list[Any]:
    """Give each struct of the standard's that has no lengths; return what came of it."""
    calls = Calls(path, slot)
    behind = (ctypes.c_ubyte * UNTOLD)(*range(UNTOLD))
    came = []
    for name, mechanism in UNTOLD_STRUCTS.items():
        params = ctype(name)()
        for field in acme().structs[name].fields:
            if field.pointer:
                setattr(params, field.name, address(behind))
        came.append(calls.begin(constant(mechanism), params))
    return came


def act_attributes(path: str, slot: int) -> list[Any]:
    """Give and ask for attributes of the vendor's; return what came of it."""
    calls = Calls(path, slot)
    one, some = ULONG(41), (ULONG * 3)(1, 2, 2**32 - 1)
    inner = (ctype("CK_ATTRIBUTE") * 1)((constant("CKA_LABEL"), address(one), 4))
    values = {0x8000_0A01: one, 0x8000_0A02: some, 0xC000_0A03: inner}
    rows = [(kind, address(value), ctypes.sizeof(value)) for kind, value in values.items()]
    given = (ctype("CK_ATTRIBUTE") * 3)(*rows)
    rv = calls.rv("C_SetAttributeValue", calls.session, calls.objects[0], given, 3)
    said = calls.said()
    asked = (ctype("CK_ATTRIBUTE") * 2)(*rows[:2])
    got = calls.rv("C_GetAttributeValue", calls.session, calls.objects[0], asked, 2)
    return [rv, said, got, one.value, list(some), [each.ulValueLen for each in asked]]


UNTOLD_STRUCTS = {
    "CK_X3DH_INITIATE_PARAMS": "CKM_X3DH_INITIALIZE",
    "CK_X3DH_RESPOND_PARAMS": "CKM_X3DH_RESPOND",
    "CK_X2RATCHET_INITIALIZE_PARAMS": "CKM_X2RATCHET_INITIALIZE",
    "CK_X2RATCHET_RESPOND_PARAMS": "CKM_X2RATCHET_RESPOND",
}


def directly(vendor: Host, act: Any, provider: Path, *arguments: Any) -> Any:
    """Have an application do something with the provider itself."""
    return vendor.play(act, str(provider), *arguments, env={"MIRROR_UNTOLD": str(UNTOLD)})


def test_a_struct_with_everything(vendor: Host, provider: Path) -> None:
    """A vendor's struct arrives whole, however deep, and what the provider writes comes back."""
    direct = directly(vendor, act_struct, provider)

    assert OK == direct[0]
    assert direct == vendor.play(act_struct, str(shim_path()))


def test_a_struct_for_a_provider_of_32_bits(vendor: Host, narrow: Host, provider: Path) -> None:
    """Rows say nothing of widths: each end lays a struct out for its own, and the provider sees the same."""
    direct, shim = directly(vendor, act_struct, provider), narrow.play(act_struct, str(shim_path()))
    lengths = re.compile(r"ulLength \d+")  # of what a tag describes: in bytes of each end

    assert OK == shim[0]
    assert lengths.sub("", direct[1]) == lengths.sub("", shim[1])
    assert [len(each) for each in direct[3:5]] == [len(each) for each in shim[3:5]]
    assert bytes(9).hex() != shim[3]


def test_a_parameter_that_does_not_fit_is_refused(vendor: Host) -> None:
    """A wrong length, a pointer of no known length, a parameter too many, an unlisted mechanism: no call."""
    assert [REFUSED] * 4 == vendor.play(act_wrong, str(shim_path()), 0)


def test_without_rows_all_is_refused(vendor: Host) -> None:
    """Rows are their module's own: beside it another refuses the same mechanisms."""
    assert [REFUSED] * 4 == vendor.play(act_wrong, str(shim_path()), 3)
    assert [REFUSED, "", bytes(range(24)).hex()] == vendor.play(act_bytes, str(shim_path()), 3)


@pytest.mark.parametrize("slot", [0, 6], ids=["file", "inline"])
def test_bytes(slot: int, vendor: Host, provider: Path) -> None:
    """A parameter that is plain bytes goes and comes back, be its row in a file or in the module's table."""
    direct = directly(vendor, act_bytes, provider, 0)

    assert OK == direct[0]
    assert bytes(range(24)).hex() != direct[2]
    assert direct == vendor.play(act_bytes, str(shim_path()), slot)


def test_by_use(vendor: Host, provider: Path) -> None:
    """What a parameter is may depend on what its mechanism is used for, and on its length."""
    direct = directly(vendor, act_by_use, provider)

    assert [OK, OK, OK] == [direct[0][0][0], direct[0][1][0], direct[1]]
    assert direct == vendor.play(act_by_use, str(shim_path()))


def test_structs_without_lengths(vendor: Host, provider: Path) -> None:
    """X3DH and X2RATCHET are carried once their lengths are configured, and refused where they are not."""
    direct = directly(vendor, act_untold, provider, 0)

    assert [OK] * 4 == [rv for rv, _ in direct]
    assert direct == vendor.play(act_untold, str(shim_path()), 0)
    assert [[REFUSED, ""]] * 4 == vendor.play(act_untold, str(shim_path()), 3)
    assert [[REFUSED, ""]] * 3 + direct[3:] == vendor.play(act_untold, str(shim_path()), 6)


def test_attributes(vendor: Host, provider: Path) -> None:
    """A vendor's attributes travel as what they are: numbers, arrays of them, templates."""
    direct = directly(vendor, act_attributes, provider, 0)

    assert OK == direct[0]
    assert direct == vendor.play(act_attributes, str(shim_path()), 0)


# ---- the sets in conf/ ----


@pytest.mark.parametrize("vendors", VENDORS, ids=[path.stem for path in VENDORS])
def test_a_sample_set_is_right(vendors: Path, tmp_path: Path) -> None:
    """Each set of a vendor's rows is without fault, and has rows that are carried."""
    config = tmp_path / "p11host.toml"
    config.write_text(module("vendor", Path("/usr/lib/vendor.so"), tables=[str(vendors)]))
    structs, lengths, mechanisms, _ = msgpack.unpackb(load(choose(config, {})).modules[0].rows)

    assert mechanisms
    assert not lengths
    assert all(number >= 1 << 31 for number, *_ in mechanisms)
    assert len(structs) == vendors.read_text().count("[structs.")


def test_only_what_a_vendor_adds_is_packed() -> None:
    """The standard's own tables have nothing to carry."""
    assert [] == pack(tables(), tables())
