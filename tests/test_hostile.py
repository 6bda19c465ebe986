"""A provider that harms harms only itself: a sample of the matrix behaviour x phase x function.

The whole of it, and the document, by `python tests/matrix.py --write`.
"""

import pytest
from life import Workshop
from matrix import Matrix
from matrix_cells import ACTS, LIES, PHASES, expected, functions, sample
from matrix_table import Result, documented

pytest_plugins = ["life_fixtures"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, workshop: Workshop) -> list[Result]:
    """Return what came of every cell of the sample."""
    matrix = Matrix(tmp_path_factory.mktemp("matrix"), workshop.provider("hostile"))
    return list(matrix.run(sample()))


def test_sample_has_everything() -> None:
    """Every behaviour, every phase and every function that reaches a provider is in the sample."""
    cells = sample()

    assert {*ACTS, *LIES} == {cell.behaviour for cell in cells}
    assert set(PHASES) == {cell.phase for cell in cells}
    assert set(functions()) == {cell.function for cell in cells}


def test_nothing_else_is_harmed(results: list[Result]) -> None:
    """The application lives, gets what is documented, and keeps nothing; the other module answers as ever."""
    assert [] == [result.line() for result in results if result.found.wrong]


def test_as_documented(results: list[Result]) -> None:
    """What came of the sample is what docs/containment-matrix.md says of all; there nothing is wrong."""
    said = documented()

    assert {(cell.behaviour, cell.phase) for cell in sample()} == set(said)
    assert [] == [key for key, (right, _) in said.items() if not right]
    for cell, found in ((each.cell, each.found) for each in results):
        by_chance = len(expected(cell)) > 1
        assert by_chance or found.rv in said[cell.behaviour, cell.phase][1], cell
