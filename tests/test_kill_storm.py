"""The helper is killed again and again while eight threads sign: what is lost is said, and nothing else is.

The whole storm by `python tests/kill_storm.py`; its numbers are in docs/containment.md.
"""

import pytest
from kill_storm import Storm, storm

SECONDS = 3.0


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Storm:
    """Return what came of a short storm."""
    return storm(tmp_path_factory.mktemp("storm"), SECONDS)


def test_nothing_is_wrong(found: Storm) -> None:
    """No signature is wrong, no call hangs, nothing leaks, and every failure is one of the documented."""
    assert [] == found.wrong()


def test_there_was_a_storm(found: Storm) -> None:
    """Helpers were killed, calls failed, and after each kill there was service again."""
    assert found.told["killed"]
    assert found.told["failures"]
    assert len(found.told["killed"]) == len(found.told["back"])
