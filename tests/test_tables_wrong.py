"""A wrong row in a table is refused at its line, and a changed one is noticed by the other end."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
if importlib.util.find_spec("p11host") is None:
    sys.path.insert(0, str(ROOT))

from p11host.tables import FILES, TableError, load  # noqa: E402

DATA = ROOT / "tests" / "specs"
BAD = sorted((DATA / "bad").glob("*.toml"))


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Return a copy of a small set of tables that is right."""
    return Path(shutil.copytree(DATA / "good", tmp_path / "specs"))


def test_a_small_set_of_tables_is_right(good: Path) -> None:
    """The set in which the wrong rows below stand is itself without fault."""
    small = load(good)

    assert {"C_GetInfo", "C_Sign"} == small.functions.keys()
    assert small.structs["CK_PARAMS"].fields == small.structs["CK_ALSO_PARAMS"].fields


@pytest.mark.parametrize("case", BAD, ids=[path.stem for path in BAD])
def test_a_wrong_row_is_refused_at_its_line(case: Path, good: Path) -> None:
    """Each file in bad/ says which table it stands for and, exactly, what is said of it."""
    first, second, *_ = case.read_text(encoding="utf-8").splitlines()
    shutil.copy(case, good / first.removeprefix("# file: "))
    expected = second.removeprefix("# expect: ")

    with pytest.raises(TableError) as refused:
        load(good)

    said = str(refused.value)
    if expected.endswith("…"):
        assert said.startswith(expected[:-1])
    else:
        assert expected == said


def test_a_missing_table_is_refused(good: Path) -> None:
    """A table that is not there is named."""
    (good / "returns.toml").unlink()

    with pytest.raises(TableError, match=r"^specs/returns\.toml:0: cannot be read"):
        load(good)


def test_comments_and_spaces_do_not_change_the_digest(good: Path) -> None:
    """Two ends built from tables that differ in comments and spaces alone agree on all of them."""
    before = load(good).digest
    for name in FILES:
        path = good / f"{name}.toml"
        path.write_text("# more\n" + path.read_text().replace(" = ", "  =  "))

    assert before == load(good).digest


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("functions", '"long"', '"short"'),
        ("functions", "secret = true", "secret = false"),
        ("returns", "always CKR_DEVICE_REMOVED", "always"),
        ("structs", "[=1] out", "[=1] inout"),
        ("sizes", "size =  8", "size =  4"),
        ("mechanisms", "<= 256", "<= 255"),
        ("attributes", "0x00000003", "0x00000004"),
        ("constants", "0x00000032", "0x00000033"),
        ("limits", "64", "65"),
    ],
)
def test_a_changed_row_changes_the_digest(name: str, old: str, new: str, good: Path) -> None:
    """Two ends that were built from different rows know it."""
    before = load(good).digest
    path = good / f"{name}.toml"
    text = path.read_text()
    path.write_text(text.replace(old, new, 1))

    assert old in text
    assert before != load(good).digest
