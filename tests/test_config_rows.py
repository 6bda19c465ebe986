"""A vendor's rows in a configuration: every fault in them is told by file, line and key."""

from pathlib import Path

import pytest

from p11host.config import choose, load
from p11host.errors import ConfigError
from p11host.reload import Configuration

MODULE = '[module.acme]\npath = "/usr/lib/acme.so"\n'
STRUCT = '[structs.CK_ACME]\nfields = ["a CK_ULONG"]\n'

#: Rows as they stand in a file, and what is said of them.
WRONG = {
    "unknown section": ("[mechanism]\n", "1: mechanism: unknown table; did you mean 'mechanisms'?"),
    "strange section": ("[x]\n", "1: x: unknown table; known are structs, types, unions, mechanisms,…"),
    "no TOML": ("[structs\n", "1: not TOML: …"),
    "no table": ("mechanisms = 3\n", "1: expected a table [mechanisms]"),
    "no row": (
        "[mechanisms]\nCKM_A = 3\n",
        "2: mechanisms.CKM_A: expected the keys value, since, param, not 3",
    ),
    "no value": (
        '[mechanisms]\n\nCKM_A = { param = "none" }\n',
        "3: mechanisms.CKM_A: expected a key 'value'",
    ),
    "unknown key": (
        '[mechanisms]\nCKM_A = { value = 1, parm = "none", param = "none" }\n',
        "2: mechanisms.CKM_A: unknown key 'parm'; did you mean 'param'?",
    ),
    "unknown struct": (
        STRUCT + '[mechanisms]\nCKM_A = { value = 0x80000001, param = "CK_ACNE" }\n',
        "4: mechanisms.CKM_A: param 'CK_ACNE': unknown kind or struct 'CK_ACNE'; did you mean 'CK_ACME'?",
    ),
    "the standard's number": (
        '[mechanisms]\nCKM_A = { value = 1, param = "none" }\n',
        "2: mechanisms.CKM_A: 0x1 is CKM_RSA_PKCS: give it that name to change its parameter",
    ),
    "the standard's name": (
        '[mechanisms]\nCKM_RSA_PKCS = { value = 2, param = "none" }\n',
        "2: mechanisms.CKM_RSA_PKCS: the value of CKM_RSA_PKCS is 0x1",
    ),
    "unknown context": (
        '[mechanisms]\nCKM_A = { value = 0x80000001, param = "@acme" }\n',
        "2: mechanisms.CKM_A: param: expected a table [contexts.acme]",
    ),
    "unknown type": (
        '[structs.CK_ACME]\nfields = [\n  "a CK_ULONG",\n  "b CK_ULNG",\n]\n',
        "4: structs.CK_ACME: 'b CK_ULNG': unknown type CK_ULNG; did you mean 'CK_ULONG'?",
    ),
    "pointer without length": (
        '[structs.CK_ACME]\nfields = ["a CK_BYTE*"]\n',
        "2: structs.CK_ACME: 'a CK_BYTE*': a pointer, and nothing else, has a length",
    ),
    "pointer to many numbers": (
        '[structs.CK_ACME]\nfields = ["a CK_ULONG* [n]", "n CK_ULONG"]\n',
        "2: structs.CK_ACME: 'a CK_ULONG* [n]': a pointer to one CK_ULONG has the length [=1]",
    ),
    "length that is an output": (
        '[structs.CK_ACME]\nfields = ["a CK_BYTE* [n] out", "n CK_ULONG out"]\n',
        "2: structs.CK_ACME: a: 'n' is an output, so nothing says how long it is",
    ),
    "output with lengths of its own": (
        (
            '[structs.CK_A]\nfields = ["a CK_BYTE* [n]", "n CK_ULONG"]\n'
            '[structs.CK_B]\nfields = ["b CK_A* [=1] out"]\n'
        ),
        "4: structs.CK_B: b: CK_A has lengths of its own, so it cannot be output only; say inout",
    ),
    "template as output": (
        '[structs.CK_ACME]\nfields = ["a CK_ATTRIBUTE* [n] out", "n CK_ULONG"]\n',
        "2: structs.CK_ACME: 'a CK_ATTRIBUTE* [n] out': a template is no output",
    ),
    "slot": (
        '[structs.CK_ACME]\nfields = ["a CK_SLOT_ID"]\n',
        "2: structs.CK_ACME: a: a slot in a parameter cannot be carried",
    ),
    "too many fields": (
        "[structs.CK_ACME]\nfields = [" + ", ".join(f'"f{n} CK_ULONG"' for n in range(33)) + "]\n",
        "1: structs.CK_ACME: 33 fields; expected at least 1 and at most 32",
    ),
    "class": (
        '[structs.CK_ACME]\nclass = "signature"\nfields = ["a CK_ULONG"]\n',
        "1: structs.CK_ACME: class: expected one of param, nested, alias, not 'signature'",
    ),
    "too large": (
        '[structs.CK_ACME]\nfields = ["a CK_BYTE[4097]"]\n',
        "1: structs.CK_ACME: is 4097 bytes long; at most 4096 are allowed",
    ),
    "too deep": (
        '[structs.CK_S0]\nfields = ["a CK_ULONG"]\n'
        + "".join(f'[structs.CK_S{n}]\nfields = ["s CK_S{n - 1}* [=1]"]\n' for n in range(1, 12)),
        "19: structs.CK_S9: structs inside one another 10 deep; at most 9 are allowed",
    ),
    "length elsewhere": (
        (
            '[structs.CK_H]\nfields = ["p CK_BYTE* [^n bits]"]\n'
            '[structs.CK_A]\nfields = ["n CK_ULONG", "h CK_H* [=1]"]\n'
            '[structs.CK_B]\nfields = ["h CK_H* [=1]", "n CK_ULONG"]\n'
        ),
        "5: structs.CK_B: 'n' is not where the other structs have it that hold CK_H",
    ),
    "the standard's struct": (
        '[structs.CK_GCM_PARAMS]\nfields = ["a CK_ULONG"]\n',
        "1: structs.CK_GCM_PARAMS: is a struct already; of such a one only lengths = …",
    ),
    "length of a field that has one": (
        '[structs.CK_GCM_PARAMS]\nlengths = { pIv = "=3" }\n',
        "2: structs.CK_GCM_PARAMS.lengths.pIv: its length is known: only one that is [?] can be given",
    ),
    "length of no field": (
        '[structs.CK_X2RATCHET_RESPOND_PARAMS]\nlengths = { skk = "=3" }\n',
        "2: structs.CK_X2RATCHET_RESPOND_PARAMS.lengths.skk: no field of CK_X2RATCHET_RESPOND_PARAMS; did …",
    ),
    "length that is none": (
        "[structs.CK_X3DH_RESPOND_PARAMS]\nlengths = { pOnetime_id = 3 }\n",
        '2: structs.CK_X3DH_RESPOND_PARAMS.lengths.pOnetime_id: expected a length, "=32" or…',
    ),
    "untabled union": (
        '[structs.CK_ACME]\nfields = ["t CK_ULONG", "p void* [n] by t", "n CK_ULONG"]\n',
        "1: structs.CK_ACME: expected a table [unions.CK_ACME]",
    ),
    "tag below": (
        '[structs.CK_ACME]\nfields = ["p void* [n] by t", "t CK_ULONG", "n CK_ULONG"]\n',
        "2: structs.CK_ACME: p: expected the field 't' above it",
    ),
    "unknown tag": (
        (
            '[structs.CK_ACME]\nfields = ["t CK_ULONG", "p void* [n] by t", "n CK_ULONG"]\n'
            '[unions.CK_ACME]\nCK_TAG = "ulong"\n'
        ),
        "4: unions.CK_ACME.CK_TAG: expected a name in constants.toml",
    ),
    "kind of an attribute": (
        '[attributes]\nCKA_A = { value = 0x80000001, kind = "number" }\n',
        "2: attributes.CKA_A: kind: expected one of bytes, bool, ulong, …",
    ),
    "number of an attribute": (
        '[attributes]\nCKA_A = { value = 0, kind = "bytes" }\n',
        "2: attributes.CKA_A: 0x0 is CKA_CLASS: give it that name to change its kind",
    ),
    "an attribute that is shown": (
        '[attributes]\nCKA_A = { value = 0x80000001, kind = "bytes", shown = true }\n',
        "2: attributes.CKA_A: 'shown' is for the standard's attributes; leave it out",
    ),
    "constant twice": ("[constants.ckr]\nCKR_OK = 3\n", "2: constants.ckr.CKR_OK: is a constant already"),
    "code twice": ("[constants.ckr]\nCKR_A = 0\n", "2: constants.ckr.CKR_A: has the value of CKR_OK"),
}


def faults(directory: Path, text: str) -> list[str]:
    """Return the faults of a configuration of that text, without the directory."""
    (directory / "p11host.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(choose(directory / "p11host.toml", {}))
    return [problem.replace(f"{directory}/", "") for problem in caught.value.problems]


def expect(expected: str, said: list[str]) -> None:
    """Compare a fault with what is expected, of which … stands for the rest."""
    assert 1 == len(said)
    if expected.endswith("…"):
        assert said[0].startswith(expected[:-1]), said[0]
    else:
        assert expected == said[0]


#: Many wrong rows, and some that lean on these.
ALL_WRONG = """\
[structs.CK_A]
fields = ["a CK_ULNG"]
[structs.CK_B]
fields = ["a CK_A* [=1]"]
[mechanism.CKM_A]
[mechanisms]
CKM_B = { value = 0x80000001, param = "CK_B" }
CKM_C = { value = 0x80000002, param = "CK_NONE" }
CKM_D = { value = 1, param = "none" }
CKM_E = { value = 0x80000003, param = "@acme" }
CKM_F = { value = 0x80000004, param = "CK_GCM_PARAMS", parm = "bytes" }
[contexts.acme]
plain = "bytes"
[attributes]
CKA_A = { value = 0, kind = "bytes" }
[constants.ckr]
CKR_OK = 3
[unions]
CK_C = 3
[structs.CK_GCM_PARAMS]
lengths = { pIv = "=3" }
[types]
CK_ULONG = ["CK_D", "CK_ULONG"]
"""


def test_all_wrong_rows(tmp_path: Path) -> None:
    """Every wrong row of every file is told at once, but of what leans on a wrong row nothing is."""
    (tmp_path / "one.toml").write_text(ALL_WRONG)
    (tmp_path / "two.toml").write_text(
        '[mechanisms]\nCKM_X = { value = 0x80000005, param = "CK_B" }\nCKM_Y = 3\n'
    )
    files = f'tables = ["{tmp_path}/one.toml", "{tmp_path}/two.toml"]\n'
    inline = '[module.acme.mechanisms]\nCKM_Z = { value = 0x80000006, param = "CK_D" }\nCKM_V = 3\n'
    beta = '[module.beta]\npath = "/usr/lib/beta.so"\n[module.beta.attributes]\nCKA_B = 3\n'
    said = faults(tmp_path, MODULE + files + inline + beta)

    assert [
        "one.toml:5: mechanism",
        "one.toml:2: structs.CK_A",
        "one.toml:8: mechanisms.CKM_C",
        "one.toml:9: mechanisms.CKM_D",
        "one.toml:11: mechanisms.CKM_F",
        "one.toml:12: contexts.acme",
        "one.toml:15: attributes.CKA_A",
        "one.toml:17: constants.ckr.CKR_OK",
        "one.toml:19: expected a table [unions.CK_C]",
        "one.toml:21: structs.CK_GCM_PARAMS.lengths.pIv",
        "one.toml:23: types.CK_ULONG",
        "two.toml:3: mechanisms.CKM_Y",
        "p11host.toml:6: module.acme.mechanisms.CKM_V",
        "p11host.toml:10: module.beta.attributes.CKA_B",
    ] == [":".join(fault.split(":")[:3]) if "unions" not in fault else fault for fault in said]


def test_files_that_cannot_be_used_and_rows_that_are_wrong(tmp_path: Path) -> None:
    """Every file that cannot be read is told, with what is wrong before it: what follows might lean on it."""
    (tmp_path / "one.toml").write_text("[attributes]\nCKA_A = 3\n")
    (tmp_path / "two.toml").write_text("[structs")
    files = ", ".join(f'"{tmp_path}/{name}.toml"' for name in ("one", "two", "three"))
    inline = "[module.acme.mechanisms]\nCKM_A = 3\n"
    said = faults(tmp_path, f"{MODULE}tables = [{files}]\n{inline}")

    assert ["two.toml:1: not TOML", "p11host.toml:3: module.acme.tables", "one.toml:2: attributes.CKA_A"] == [
        ":".join(fault.split(":")[:3]) for fault in said
    ]


def test_more_wrong_rows_than_anybody_reads(tmp_path: Path) -> None:
    """Of very many wrong rows some are told, and that there are more."""
    rows = "".join(f"CKM_{number} = 3\n" for number in range(100))
    (tmp_path / "acme.toml").write_text(f"[mechanisms]\n{rows}")
    said = faults(tmp_path, f'{MODULE}tables = ["{tmp_path}/acme.toml"]\n')

    assert 21 == len(said)
    assert all(fault.startswith("acme.toml:") for fault in said[:-1])
    assert (
        "p11host.toml:1: module.acme: 20 faults in its rows are told; correct these to see the rest"
        == said[-1]
    )


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_row_in_a_file(name: str, tmp_path: Path) -> None:
    """A fault in a file of rows is told by that file, its line and the row."""
    text, expected = WRONG[name]
    (tmp_path / "acme.toml").write_text(text)

    expect(f"acme.toml:{expected}", faults(tmp_path, f'{MODULE}tables = ["{tmp_path}/acme.toml"]\n'))


def test_a_wrong_row_in_a_module(tmp_path: Path) -> None:
    """A fault in a row below a module's table is told by the line it stands on, and its whole key."""
    rows = '[module.acme.mechanisms]\n# one\nCKM_A = { value = 1, param = "none" }\n'
    expected = "p11host.toml:5: module.acme.mechanisms.CKM_A: 0x1 is CKM_RSA_PKCS: give it that name…"

    expect(expected, faults(tmp_path, MODULE + rows))
    expect(
        "p11host.toml:3: module.acme.mechanisms: expected rows as in specs/mechanisms.toml, not 3",
        faults(tmp_path, f"{MODULE}mechanisms = 3\n"),
    )


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    """A file of rows that is missing, or that everybody may write, is told where it is named."""
    rows = tmp_path / "acme.toml"
    named = f'{MODULE}tables = ["{rows}"]\n'
    where = "p11host.toml:3: module.acme.tables: acme.toml:"

    expect(
        f"{where} cannot be read: No such file or directory; check its path, owner and mode",
        faults(tmp_path, named),
    )
    rows.write_text("")
    rows.chmod(0o646)
    expect(f"{where} everybody may write it; run: chmod o-w acme.toml", faults(tmp_path, named))
    rows.chmod(0o644)
    rows.write_bytes(b"# \xff")
    expect(f"{where} not UTF-8 at byte 2; save it as UTF-8", faults(tmp_path, named))
    where = "p11host.toml:3: module.acme.tables.0:"
    expect(
        f'{where} expected the absolute path of a file with a vendor\'s rows, not "a"',
        faults(tmp_path, f'{MODULE}tables = ["a"]\n'),
    )


def test_too_many_rows(tmp_path: Path) -> None:
    """More rows than can travel are refused here, not by whoever gets them."""
    rows = "".join(f'CKM_{n} = {{ value = {0x8000_0000 + n}, param = "bytes" }}\n' for n in range(4000))
    (tmp_path / "acme.toml").write_text(f"[mechanisms]\n{rows}")
    (said,) = faults(tmp_path, f'{MODULE}tables = ["{tmp_path}/acme.toml"]\n')

    assert said.startswith("p11host.toml:3: module.acme.tables: rows of ")
    assert said.endswith(" bytes; at most 65536 are allowed, leave out what is not used")


def test_rows_of_two_files_and_a_module(tmp_path: Path) -> None:
    """Rows that come later may use those before them."""
    (tmp_path / "one.toml").write_text(STRUCT)
    (tmp_path / "two.toml").write_text('[mechanisms]\nCKM_A = { value = 0x80000001, param = "CK_ACME" }\n')
    config = tmp_path / "p11host.toml"
    inline = '[module.acme.mechanisms]\nCKM_B = { value = 0x80000002, param = "CK_ACME" }\n'
    config.write_text(f'{MODULE}tables = ["{tmp_path}/one.toml", "{tmp_path}/two.toml"]\n{inline}')
    (module,) = load(choose(config, {})).modules

    assert module.rows.count(b"CK_ACME") == 3
    assert (tmp_path / "one.toml", tmp_path / "two.toml") == module.tables


def test_no_rows(tmp_path: Path) -> None:
    """A module without rows, or with names alone, has nothing that travels."""
    config = tmp_path / "p11host.toml"
    config.write_text(MODULE + "[module.acme.constants.ckr]\nCKR_ACME = 0x80000001\n")

    assert b"" == load(choose(config, {})).modules[0].rows


def test_a_change_in_a_file_of_rows_is_seen(tmp_path: Path) -> None:
    """What a broker gives its next application is what the files say by then, or the last that was right."""
    rows, config = tmp_path / "acme.toml", tmp_path / "p11host.toml"
    rows.write_text(STRUCT)
    config.write_text(f'{MODULE}tables = ["{rows}"]\n')
    configuration = Configuration(choose(config, {}))
    first = configuration.current().modules[0].rows
    rows.write_text(STRUCT.replace("CK_ACME", "CK_OTHER"))
    second = configuration.current().modules[0].rows
    rows.unlink()
    third = configuration.current().modules[0].rows
    rows.write_text(STRUCT)

    assert b"CK_ACME" in first
    assert b"CK_OTHER" in second
    assert second == third
    assert first == configuration.current().modules[0].rows
