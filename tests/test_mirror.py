"""All of Cryptoki 3.2, carried exactly: every call has the same outcome directly and through p11host.

The provider is tests/providers/mirror.c, which says what it was given and fills every output. The calls are
those of mirror_cases.py: every function, mechanism, struct and attribute of the tables, with everything that
can be NULL, empty, exact, short and long.
"""

import os
from pathlib import Path
from typing import Any

import pytest
from brokers import module
from life import Host, hosted
from mirror_cases import begin_message, carried_functions, groups, homes, is_message, lies, make
from mirror_choices import Choices
from mirror_coverage import Coverage, text
from mirror_run import Way, compared

from p11host import shim_path
from p11host.tables import SINCE, Function, tables

pytest_plugins = ["life_fixtures"]

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "coverage.md"
SHOWN = 20


def run_all(mirror: str) -> dict[str, Any]:
    """Make all cases both ways; return in what they differ and what was shown of each row of the tables."""
    direct, shim = Way(Path(mirror)), Way(shim_path())
    coverage, wrong, count = Coverage(), [], 0
    ahead = shim.count() - direct.count()
    for group in groups():
        for case in group:
            count += 1
            found = compared(case, direct, shim)
            if found:
                wrong.append(
                    f"{case.function} {case.subject} {dict(case.picks)} {case.wish}: {'; '.join(found)}"
                )
            else:
                coverage.note(case)
    return {
        "count": count,
        "wrong": wrong[:SHOWN],
        "wrongs": len(wrong),
        "coverage": coverage.data(),
        "more": shim.count() - direct.count() - ahead,
    }


def run_older(mirror: str, version: str) -> list[str]:
    """Make the usual call of each function with a provider of that version; return what is wrong."""
    direct, shim = Way(Path(mirror)), Way(shim_path())
    return [found for function in carried_functions() for found in _older(function, version, direct, shim)]


def _older(function: Function, version: str, direct: Way, shim: Way) -> list[str]:
    gcm = tables().mechanisms["CKM_AES_GCM"]
    session = {"hSession": 0} if is_message(function) else {}
    case = make(function, ("function", function.name), Choices(), message=gcm, **session)
    if SINCE.index(function.since) > SINCE.index(version):
        case.refusal, case.reason = "CKR_FUNCTION_NOT_SUPPORTED", f"new in {function.since}"
        if is_message(function):
            case.refusal = "CKR_OPERATION_NOT_INITIALIZED"  # as no operation could begin
    elif is_message(function):
        compared(begin_message(function, gcm), direct, shim)
    return [f"{function.name}: {found}" for found in compared(case, direct, shim)]


def run_lies() -> list[str]:
    """Make calls to a mirror that lies; return what was written where nothing may be."""
    shim, wrong = Way(shim_path()), []
    for case in lies():
        shim.tell(case.wish)
        _, after = shim.make(case)
        before = case.image.at(shim.base, shim.numbers)
        guards = case.image.guards(case.image.canonical(before, shim.base, shim.places))
        if case.image.guards(after) != guards:
            wrong.append(f"{case.function} {case.subject} {dict(case.picks)}")
        shim.count()  # it is the same mirror as before, and alive
    return wrong


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, mirror: Path) -> Any:
    """Run all cases once, in an application that has loaded both the mirror and the shim."""
    with hosted(tmp_path_factory.mktemp("mirror"), module("mirror", mirror)) as host:
        return Host.play(host, run_all, str(mirror))


def test_same_outcome(run: Any) -> None:
    """The provider was given the same, the caller's memory and the CK_RV are the same, in every case."""
    assert [] == run["wrong"], run["wrongs"]


def test_every_call_is_made_once(run: Any) -> None:
    """The provider had as many calls as it has directly: nothing is asked twice, whatever the buffers are."""
    assert 0 == run["more"]


def test_every_row_of_the_tables(run: Any) -> None:
    """Every function that reaches a provider, every mechanism, parameter struct and attribute was carried."""
    carried = {name for name, (carried, _) in run["coverage"].items() if carried}
    known = tables()
    wanted = {f"function {function.name}" for function in carried_functions()}
    wanted |= {f"mechanism {known.mechanism(row.value).name}" for row in known.mechanisms.values()}  # type: ignore[union-attr]
    wanted |= {f"struct {row.name}" for row in known.structs.values() if row.kind == "param"}
    wanted |= {f"attribute {row.name}" for row in known.attributes.values()}

    assert set() == wanted - carried
    assert {row.name for row in known.structs.values() if row.kind == "param"} <= homes().keys()


@pytest.mark.parametrize("version", ["2.40", "3.0"])
def test_older_provider(tmp_path: Path, mirror: Path, version: str) -> None:
    """What a provider's newest interface lacks is CKR_FUNCTION_NOT_SUPPORTED; all else it has is carried."""
    with hosted(tmp_path, module("mirror", mirror, env={"MIRROR_INTERFACES": version})) as host:
        assert [] == host.play(run_older, str(mirror), version)


def test_lies(tmp_path: Path, mirror: Path) -> None:
    """No length that a provider makes up leads outside the caller's buffers, nor ends its helper."""
    with hosted(tmp_path, module("mirror", mirror)) as host:
        assert [] == host.play(run_lies)


def test_document(run: Any) -> None:
    """docs/coverage.md says what the run has shown, no more and no less."""
    found = text(run["coverage"])
    if os.environ.get("P11HOST_COVERAGE") == "write":
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(found)

    assert found == DOCUMENT.read_text()
