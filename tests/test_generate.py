"""The C generated from specs/: it compiles without a warning, and says the same as the tables in Python."""

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
if importlib.util.find_spec("p11host") is None:
    sys.path.insert(0, str(ROOT))

from p11host.tables import Arg, Choice, Field, Function, Mechanism, Struct, Without, load  # noqa: E402

SPECS, SHIM, DATA = ROOT / "specs", ROOT / "shim", ROOT / "tests" / "specs"
STRICT = [
    *("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wstrict-prototypes", "-Wmissing-prototypes"),
    *("-Wundef", "-Wvla", "-Werror", "-fvisibility=hidden"),
]
SOURCES = ("tables.c", "entries.c", "invoke.c", "layouts_check.c")
HEADERS = ("cryptoki.h", "limits.h", "layouts.h", "entries.h", "invoke.h")

PROVIDER_H = """\
#include "cryptoki.h"
struct provider {
    CK_FUNCTION_LIST_3_2 list;
};
"""

T = load(SPECS)
ABI, WORD = ("lp64", 8) if sys.maxsize > 1 << 32 else ("ilp32", 4)


def run(*command: str | Path, status: int = 0, stdin: str = "") -> str:
    """Run a program whose end must be `status`; return what it printed."""
    words = [str(word) for word in command]
    done = subprocess.run(words, check=False, capture_output=True, text=True, input=stdin)

    assert status == done.returncode, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr


def generate(*arguments: Path, status: int = 0) -> str:
    """Run the generator as a build does that has nothing but the standard library."""
    return run(sys.executable, "-S", SPECS / "generate.py", *arguments, status=status)


def compile_c(out: Path, *arguments: str | Path) -> None:
    """Compile against generated C and the shim's headers; a warning fails."""
    run("gcc", "-std=c11", *STRICT, "-I", out, "-I", SHIM, *arguments)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the generated C, and a provider.h with what it needs of the helper's."""
    directory = tmp_path_factory.mktemp("generated")
    generate(directory)
    (directory / "provider.h").write_text(PROVIDER_H)
    return directory


@pytest.mark.parametrize("name", SOURCES)
def test_generated_sources_compile(name: str, out: Path, tmp_path: Path) -> None:
    """The strictest warnings find nothing, and every struct has the size and offsets of sizes.toml."""
    compile_c(out, "-c", out / name, "-o", tmp_path / "object.o")


@pytest.mark.parametrize("name", HEADERS)
def test_generated_headers_stand_alone(name: str, out: Path) -> None:
    """Each header can be included alone, and twice."""
    run(
        "gcc",
        "-std=c11",
        *STRICT,
        "-I",
        out,
        "-fsyntax-only",
        "-x",
        "c",
        "-",
        stdin=f'#include "{name}"\n' * 2,
    )


@pytest.mark.parametrize("standard", ["c++11", "c++20"])
def test_header_is_good_in_cpp(standard: str, out: Path) -> None:
    """A program in C++ can include cryptoki.h."""
    if not shutil.which("g++"):
        pytest.skip("no g++")
    command = ("g++", f"-std={standard}", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", out)
    run(*command, "-fsyntax-only", "-x", "c++", "-", stdin='#include "cryptoki.h"\n')


def test_structs_of_32_bits(out: Path, tmp_path: Path) -> None:
    """A compiler for 32 bits lays the structs out as sizes.toml says of ilp32."""
    (tmp_path / "long.c").write_text('_Static_assert(sizeof(long) == 4, "32 bits");\n')
    ways = [["gcc", "-m32", "-ffreestanding"], ["clang", "--target=i386-linux-gnu", "-ffreestanding"]]
    for way in filter(lambda way: shutil.which(way[0]), ways):
        able = [*way, "-fsyntax-only", str(tmp_path / "long.c")]
        if subprocess.run(able, check=False, capture_output=True).returncode == 0:
            run(*way, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", out, out / "layouts_check.c")
            return
    pytest.skip("no compiler for 32 bits")


def test_a_wrong_size_does_not_compile(out: Path, tmp_path: Path) -> None:
    """The assertions of layouts_check.c do assert."""
    check = (out / "layouts_check.c").read_text()
    wrong = check.replace(
        "offsetof(CK_ATTRIBUTE, ulValueLen) == 16", "offsetof(CK_ATTRIBUTE, ulValueLen) == 12"
    )
    (tmp_path / "check.c").write_text(wrong)

    assert check != wrong
    assert "CK_ATTRIBUTE.ulValueLen" in run("gcc", "-fsyntax-only", "-I", out, tmp_path / "check.c", status=1)


def test_system_limits_are_not_hidden(out: Path) -> None:
    """Who asks for the system's <limits.h> gets it, though ours has the same name."""
    text = '#include "limits.h"\n#include <limits.h>\n_Static_assert(INT_MAX > LIMIT_NAME, "both");\n'
    run("gcc", "-std=c11", "-I", out, "-fsyntax-only", "-x", "c", "-", stdin=text)


def test_prototypes_are_those_of_the_tables(out: Path) -> None:
    """cryptoki.h declares every function, and each list has its functions in order."""
    text = (out / "cryptoki.h").read_text()
    declared = re.findall(r"^CK_RV (C_\w+)\((.*)\);$", text, re.MULTILINE)
    lists = re.findall(
        r"^struct (CK_FUNCTION_LIST\w*) {\n    CK_VERSION version;\n(.*?)^};", text, re.MULTILINE | re.DOTALL
    )

    assert [(f.name, ", ".join(map(" ".join, f.words))) for f in T.functions.values()] == [
        (name, re.sub(r" (\*+)", r"\1 ", words)) for name, words in declared
    ]
    assert {"CK_FUNCTION_LIST": 68, "CK_FUNCTION_LIST_3_0": 92, "CK_FUNCTION_LIST_3_2": 104} == {
        name: len(members.splitlines()) for name, members in lists
    }
    for _, members in lists:
        names = re.findall(r"    CK_(C_\w+) \1;\n", members)

        assert list(T.functions)[: len(names)] == names


def test_constants_are_those_of_the_tables(out: Path, tmp_path: Path) -> None:
    """The compiler gives every constant, mechanism and attribute the number of the tables."""
    rows = [(row.name, row.value) for row in T.constants.values()]
    rows += [(row.name, row.value) for row in T.mechanisms.values()]
    rows += [(row.name, row.value) for row in T.attributes.values()]
    lines = ['#include <stdio.h>\n#include "cryptoki.h"\nint main(void)\n{']
    lines += [f'    printf("{name} %lu\\n", (unsigned long){name});' for name, _ in rows]
    (tmp_path / "constants.c").write_text("\n".join([*lines, "    return 0;\n}\n"]))
    run("gcc", "-I", out, tmp_path / "constants.c", "-o", tmp_path / "constants")

    assert [f"{name} {value % (1 << 8 * WORD)}" for name, value in rows] == run(
        tmp_path / "constants"
    ).splitlines()


def test_nothing_is_written_twice(tmp_path: Path) -> None:
    """A second run leaves the files as they are, so a build compiles nothing again."""
    generate(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    generate(tmp_path)

    assert {*SOURCES, *HEADERS} == {path.name for path in before}
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert all("generated from specs/, do not edit" in path.read_text() for path in before)


def test_a_wrong_table_is_one_line_and_no_output(tmp_path: Path) -> None:
    """The build says file, line and row, and writes nothing."""
    specs = Path(shutil.copytree(DATA / "good", tmp_path / "specs"))
    shutil.copy(DATA / "bad" / "arg_kind.toml", specs / "functions.toml")
    said = generate(tmp_path / "out", specs, status=1)

    assert "specs/functions.toml:9: C_Sign: 'pData blob[ulLen]': unknown kind 'blob'\n" == said
    assert not (tmp_path / "out").exists()


def test_usage() -> None:
    """Without a directory, the generator says how it is called."""
    assert "usage: generate.py OUTDIR [SPECS]\n" == generate(status=2)


def test_small_tables_become_known_c(tmp_path: Path) -> None:
    """The C of a small set of tables is the text of small.c, to be read beside it."""
    generate(tmp_path, DATA / "good")
    digest = re.compile("0x[0-9a-f]{16}")

    assert (DATA / "small.c").read_text() == digest.sub("DIGEST", (tmp_path / "tables.c").read_text())


def enumerators() -> dict[str, int]:
    """Return the numbers of all enumerators of shim/tables.h."""
    text = re.sub(r"/\*.*?\*/", "", (SHIM / "tables.h").read_text(), flags=re.DOTALL)
    numbers: dict[str, int] = {}
    for body in re.findall(r"enum \w+ {(.*?)}", text, re.DOTALL):
        number = -1
        for item in filter(None, map(str.strip, body.split(","))):
            name, _, value = item.partition(" = ")
            number = int(value) if value else number + 1
            numbers[name] = number
    return numbers


E = enumerators()
LAYOUTS = sorted(name for name, struct in T.structs.items() if struct.layout)
UNIONS = sorted(T.unions)
SPELT = {
    "flags": "NUMBER",
    "ulong": "NUMBER",
    "ulong*": "NUMBER_PTR",
    "ulongs": "NUMBERS",
    "handle": "OBJECT",
    "object*": "OBJECT_PTR",
    "inout template": "TEMPLATE_IO",
    "out ulong": "OUT_NUMBER",
    "out ulongs": "OUT_NUMBERS",
    "bytes|bits": "BYTES_OR_BITS",
}


def number_of(prefix: str, word: str) -> int:
    """Return the enumerator that shim/tables.h has for a word of the tables."""
    return E[f"{prefix}_{SPELT.get(word, word.upper().replace(' ', '_').replace('-', '_'))}"]


def arg_line(arg: Arg, pos: int) -> str:
    """Return the line for an argument, whose first C argument is the one at `pos`."""
    lengths = [pos + n if n < len(arg.words) else 0 for n in (1, 2)]
    target = LAYOUTS.index(arg.struct) if arg.struct else arg.size
    return f"arg {number_of('ARG', arg.kind)} {pos} {lengths[0]} {lengths[1]} {arg.optional:d} {target}"


def without_line(without: Without) -> str:
    """Return the line for a flag that there is not."""
    offset = offset_of(T.structs[without.struct], without.field) if without.struct else 0
    refusal = T.constants[without.refusal].value if without.refusal else 0
    return (
        f"without {without.pos} {bool(without.struct):d} {offset} {T.constants[without.flag].value} {refusal}"
    )


def function_lines(function: Function) -> Iterator[str]:
    """Return the lines for a function."""
    gone, absent = T.constants[function.gone].value, T.constants[function.absent].value
    context, patience = number_of("CONTEXT", function.context), number_of("PATIENCE", function.patience)
    counts = f"{len(function.args)} {len(function.words)}"
    flags = f"{function.secret:d} {function.local:d}"
    yield f"function {function.name} {counts} {context} {patience} {flags} {gone} {absent}"
    if function.without:
        yield without_line(function.without)
    pos = 0
    for arg in function.args:
        yield arg_line(arg, pos)
        pos += len(arg.words)


def offset_of(struct: Struct, name: str) -> int:
    """Return the offset that sizes.toml gives a field."""
    index = next(n for n, field in enumerate(struct.fields) if field.name == name)
    return T.sizes[ABI][struct.name].offsets[index]


def length_of(struct: Struct, field: Field) -> int:
    """Return what the walker is to find in `length`."""
    if not field.length:
        return field.array
    if not field.length.field:
        return field.length.count
    owner = struct
    if field.length.unit == "parent bits":
        owner = next(s for s in T.structs.values() if any(struct.name == held.base for held in s.fields))
    return offset_of(owner, field.length.field)


def field_line(struct: Struct, field: Field) -> str:
    """Return the line for a field of a struct."""
    target = LAYOUTS.index(field.base) if field.kind in ("struct", "structs") else 0
    target = UNIONS.index(struct.name) if field.kind == "union" else target
    unit = number_of("UNIT", field.length.unit) if field.length else E["UNIT_NONE"]
    where = f"{offset_of(struct, field.name)} {length_of(struct, field)} {target}"
    return f"field {where} {number_of('FIELD', field.kind)} {unit} {number_of('DIR', field.direction)}"


def layout_lines(name: str) -> Iterator[str]:
    """Return the lines for a struct."""
    struct = T.structs[name]
    align = 1 if all(field.kind in ("byte", "fixed") for field in struct.fields) else WORD
    signature = struct.kind == "signature"
    yield f"layout {name} {T.sizes[ABI][name].size} {align} {len(struct.fields)} {signature:d}"
    yield from (field_line(struct, field) for field in struct.fields)


def union_lines(name: str) -> Iterator[str]:
    """Return the lines for a union."""
    union = T.unions[name]
    yield f"union {offset_of(T.structs[name], union.tag)} {len(union.variants)}"
    for tag, value in union.variants.items():
        struct = value in T.structs
        kind = number_of("VALUE", "struct" if struct else value)
        yield f"variant {T.constants[tag].value} {LAYOUTS.index(value) if struct else 0} {kind}"


def choice_line(context: str, choice: Choice) -> str:
    """Return the line for a way a parameter may look."""
    struct = "CK_VERSION" if choice.kind == "version" else choice.struct
    kind = number_of("VALUE", "struct" if struct else choice.kind)
    target = LAYOUTS.index(struct) if struct else choice.size
    probe = offset_of(T.structs[struct], choice.probe) if choice.probe else 0
    fits = f"{number_of('CONTEXT', context)} {kind} {choice.output:d} {target}"
    return f"choice {fits} {probe} {choice.probe_max}"


def mechanism_lines(mechanism: Mechanism) -> Iterator[str]:
    """Return the lines for a mechanism."""
    contexts = mechanism.choices if mechanism.contextual else {"any": mechanism.choices["plain"]}
    choices = [choice_line(context, choice) for context, found in contexts.items() for choice in found]
    output = LAYOUTS.index(mechanism.output) + 1 if mechanism.output else 0
    yield f"mechanism {mechanism.value} {output} {len(choices)}"
    yield from choices


def attribute_lines() -> Iterator[str]:
    """Return the lines for the attributes that are not bytes alone or shown, both numbers of some."""
    rows = [(number, a) for a in T.attributes.values() for number in (a.value, a.also) if number is not None]
    shown = {number for number, a in rows if a.shown}
    for number, kind in sorted({(number, a.kind) for number, a in rows}):
        walked = kind in ("ulong", "bool", "ulongs", "template")
        if walked or number in shown:
            word = number_of("VALUE", kind if walked else "bytes")
            yield f"attribute {number} {word} {int(number in shown)}"


def test_descriptors_say_what_the_tables_say(out: Path, tmp_path: Path) -> None:
    """Every row that the walker sees is the row that Python sees, offsets and lengths included."""
    compile_c(out, DATA / "dump.c", out / "tables.c", "-o", tmp_path / "dump")
    mechanisms = {m.value: m for m in T.mechanisms.values()}
    expected = [line for function in T.functions.values() for line in function_lines(function)]
    expected += [line for name in LAYOUTS for line in layout_lines(name)]
    expected += [line for name in UNIONS for line in union_lines(name)]
    expected += [line for value in sorted(mechanisms) for line in mechanism_lines(mechanisms[value])]
    expected += [*attribute_lines(), f"digest {T.digest}"]
    expected += [f"patience {T.limits.deadlines[name]}" for name in ("short", "long", "forever")]

    assert expected == run(tmp_path / "dump").splitlines()


def test_calls_arrive_as_they_were_made(out: Path, tmp_path: Path) -> None:
    """Every function of our list hands on its index and arguments, and is invoked in a provider with them.

    A provider that lacks the function is not called.
    """
    counts = ", ".join(str(len(function.words)) for function in T.functions.values())
    stubs = ['#include "cryptoki.h"', f"extern const unsigned char word_counts[{len(T.functions)}];"]
    stubs += [f"const unsigned char word_counts[] = {{{counts}}};"]
    prototypes = re.findall(r"^(CK_RV (C_\w+)\(.*\));$", (out / "cryptoki.h").read_text(), re.MULTILINE)
    stubs += [
        f"{prototype} {{ return CKR_OK; }}" for prototype, name in prototypes if T.functions[name].local
    ]
    (tmp_path / "stubs.c").write_text("\n".join([*stubs, ""]))
    sources = (DATA / "calls.c", tmp_path / "stubs.c", out / "entries.c", out / "invoke.c")
    compile_c(out, "-Wno-unused-parameter", *sources, "-o", tmp_path / "calls")
    absent, expected = T.constants["CKR_FUNCTION_NOT_SUPPORTED"].value, []
    for index, function in enumerate(T.functions.values()):
        count = len(function.words)
        if function.local:
            expected += [f"enter {index} local", f"leave {index} 0 {absent} {absent}"]
        else:
            expected += [f"enter {index} {index} {count} 4711", f"leave {index} {count} 4711 {absent}"]

    assert [*expected, f"unknown {absent}"] == run(tmp_path / "calls").splitlines()
