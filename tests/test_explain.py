"""`p11host explain`: what is known of a name or number, and what is said of an unknown one."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from brokers import module
from click.testing import CliRunner, Result
from life import TESTS

from p11host.cli import cli
from p11host.errors import ConfigError
from p11host.explain.codes import NEVER, REASONS
from p11host.explain.entries import explain, parse_number
from p11host.tables import tables

ACME = TESTS / "acme.toml"
SHIM = TESTS.parent / "shim"
#: Sources of the helper, whose return values are its provider's.
HELPER = {"provider.c", "helper.c", "serve.c", "kept.c"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return a configuration with a module that has rows of a vendor, and one that has none."""
    path = tmp_path / "p11host.toml"
    acme = module("acme", Path("/usr/lib/acme.so"), tables=[str(ACME)])
    path.write_text(acme + module("plain", Path("/usr/lib/plain.so")))
    return path


def run(*words: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(cli, ["explain", *words], env={"P11HOST_CONFIG": "", "COLUMNS": "120"})


def entries(*words: str) -> list[dict[str, Any]]:
    """Return what the command prints as JSON."""
    result = run("--json", *words)
    assert 0 == result.exit_code, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def only(*words: str) -> dict[str, Any]:
    """Return the facts of the one entry there must be."""
    (entry,) = entries(*words)
    facts: dict[str, Any] = entry["facts"]
    return facts


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have nothing of the machine's own configuration found."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setattr("p11host.paths.SYSTEM_CONFIG", tmp_path / "none" / "p11host.toml")


def test_a_mechanism() -> None:
    """A mechanism is told with its number, its parameter by function, and what becomes of a wrong one."""
    (entry,) = entries("CKM_AES_GCM")
    plain, wrap, begin, message = entry["facts"]["parameter"]

    assert ("mechanism", "CKM_AES_GCM", 0x1087, "2.40") == tuple(
        entry[key] for key in ("kind", "name", "value", "since")
    )
    assert plain.startswith(
        "CK_GCM_PARAMS (48 bytes, 24 where CK_ULONG has 32 bits) or CK_GCM_PARAMS_LEGACY (40"
    )
    assert "C_EncryptInit" in plain
    assert wrap.endswith("with C_WrapKey, C_UnwrapKey")
    assert begin.startswith("none, with C_MessageEncryptInit")
    assert message.startswith("CK_GCM_MESSAGE_PARAMS")
    assert "refused with CKR_MECHANISM_PARAM_INVALID" in entry["facts"]["a wrong one"]


@pytest.mark.parametrize(
    ("name", "parameter", "wrong"),
    [
        ("CKM_RSA_PKCS", "none, with every function", "any parameter at all is refused"),
        ("CKM_AES_CBC", "bytes, usually 16, with every function", "is carried as bytes"),
        ("CKM_SHA_1_HMAC_GENERAL", "one CK_ULONG, with every function", "is carried as bytes"),
    ],
)
def test_parameters(name: str, parameter: str, wrong: str) -> None:
    """What is no struct is told in words."""
    facts = only(name)

    assert [parameter] == facts["parameter"]
    assert facts["a wrong one"].startswith(wrong)


def test_a_struct_without_lengths() -> None:
    """What cannot be carried as it is, is told with the mechanism and with the struct."""
    assert ["pOnetime_key", "pPrekey_signature"] == only("CKM_X3DH_INITIALIZE")["pointers without length"]
    assert "only NULL is carried" in only("CK_X3DH_INITIATE_PARAMS")["fields"][3]
    assert ["CKM_X3DH_INITIALIZE"] == only("CK_X3DH_INITIATE_PARAMS")["parameter of"]


def test_a_function() -> None:
    """A function is told with its arguments, its patience and what it returns when its helper is gone."""
    facts = only("C_Sign")

    assert [
        "CK_SESSION_HANDLE hSession: session",
        "CK_BYTE* pData, CK_ULONG ulDataLen: bytes",
        "CK_BYTE* pSignature, CK_ULONG* pulSignatureLen: out bytes",
    ] == facts["arguments"]
    assert "long: 600 s unless configured" == facts["patience"]
    assert ("CKR_DEVICE_REMOVED", "CKR_SESSION_HANDLE_INVALID") == (
        facts["helper dies during it"],
        facts["no helper to ask"],
    )
    assert facts["no answer in time"].startswith("CKR_DEVICE_ERROR")
    assert tables().functions["C_Sign"].returns | {"CKR_FUNCTION_NOT_SUPPORTED"} == set(facts["may return"])
    assert "never sent" in only("C_GetFunctionList")["answered"]


def test_an_attribute() -> None:
    """An attribute is told with what its value is, by either of its numbers."""
    (entry,) = entries("0x4000062a")

    assert "CKA_ENCAPSULATE_TEMPLATE" == entry["name"]
    assert "an array of CK_ATTRIBUTE, carried attribute by attribute" == entry["facts"]["value"]
    assert ["CKA_ECDSA_PARAMS"] == only("CKA_EC_PARAMS")["also called"]


def test_a_return_value() -> None:
    """A CKR is told with when p11host makes it itself, or that it never does."""
    removed, param = only("CKR_DEVICE_REMOVED"), only("CKR_MECHANISM_PARAM_INVALID")

    assert removed["made by p11host itself"][0].startswith("the helper died during the call: every function")
    assert "the tables do not describe" in param["made by p11host itself"][0]
    assert only("CKR_PIN_INCORRECT")["made by p11host itself"].startswith("never")


def test_every_return_value_of_the_shim_is_told() -> None:
    """No source of the shim has a CKR of its own for which there is no reason to read."""
    made: set[str] = set()
    for source in SHIM.glob("*.c"):
        if source.name not in HELPER:
            text = re.sub(r"/\*.*?\*/", "", source.read_text(), flags=re.DOTALL)
            made |= set(
                re.findall(r"(?:return|refuse\([\w>-]+,|put_number\(.*,|\?|:|[^=!]=) (CKR_\w+)", text)
            )

    assert "CKR_DEVICE_ERROR" in made
    assert set() == made - REASONS.keys() - set(NEVER)
    assert set() == REASONS.keys() - tables().constants.keys()


def test_a_number_of_several_things() -> None:
    """A number is told as everything that it stands for."""
    assert {"CKM_RC2_MAC", "CKA_SENSITIVE"} <= {entry["name"] for entry in entries("0x103")}
    assert entries("0x103") == entries("259") == entries("0x103UL")
    assert ["CK_UNAVAILABLE_INFORMATION"] == [entry["name"] for entry in entries("0xffffffffffffffff")]


@pytest.mark.parametrize(
    ("word", "number"), [("0", 0), ("0X1F", 31), ("12ul", 12), ("CKM_1", None), ("", None)]
)
def test_numbers(word: str, number: int | None) -> None:
    """Numbers are taken as C writes them."""
    assert number == parse_number(word)


def test_everything_can_be_told() -> None:
    """There is no name in the tables of which nothing can be said."""
    known = tables()
    for names in (known.functions, known.mechanisms, known.attributes, known.structs, known.constants):
        for name in names:
            assert name in [entry.name for entry in explain(known, name)]


def test_text() -> None:
    """For people it is text, each fact with its name before it."""
    lines = run("CKA_LABEL").stdout.splitlines()

    assert "CKA_LABEL  0x3  attribute, since 2.40" == lines[0].rstrip()
    assert ["value", "bytes, carried as they are"] == re.split(r"  +", lines[1].strip())


def test_an_unknown_name() -> None:
    """A misspelt name is answered with the one that was meant, and the exit code for wrong usage."""
    result = run("CKM_AES_GCN")

    assert 2 == result.exit_code
    assert "nothing is called 'CKM_AES_GCN'; did you mean 'CKM_AES_GCM'?" in result.output
    assert "nothing has the number 0x80001234; a vendor's needs rows" in run("0x80001234").output


def test_a_vendors_rows(config: Path) -> None:
    """What a configuration's modules know beyond the standard is told with the module's name."""
    (entry,) = entries("--config", str(config), "0x80000a01", "--module", "acme")[:1]
    completed = entries("--config", str(config), "CKM_X3DH_INITIALIZE")

    assert ("CKM_ACME", "acme", "vendor") == (entry["name"], entry["module"], entry["since"])
    assert entry["facts"]["parameter"][0].startswith("CK_ACME_PARAMS (")
    assert ["", "acme"] == [each["module"] for each in completed]
    assert "pointers without length" not in completed[1]["facts"]
    assert 2 == run("--config", str(config), "--module", "plain", "CKM_ACME").exit_code


def test_a_wrong_configuration(config: Path) -> None:
    """A module that is not there, or a fault in a file of rows, is told as every fault of a configuration."""
    result = run("--config", str(config), "--module", "none", "CKM_RSA_PKCS")

    assert isinstance(result.exception, ConfigError)
    assert "no [module.none] in the configuration; known are acme, plain" == str(result.exception)
