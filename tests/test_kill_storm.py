"""The helper is killed again and again while eight threads sign: what is lost is said, and nothing else is.

The whole storm by `python tests/kill_storm.py`; its numbers are in docs/containment.md.
"""

import pytest
from kill_storm import Storm, storm

SECONDS = 3.0
#: Seconds after which service that must come back will not: on a busy machine everything takes its time.
PATIENCE = 20.0


@pytest.fixture(scope="module", params=[False, True], ids=["anew", "resume"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Storm:
    """Return what came of a short storm: with a program that begins anew, and with one that is resumed."""
    return storm(tmp_path_factory.mktemp("storm"), SECONDS, resume=request.param)


def test_nothing_is_wrong(found: Storm) -> None:
    """No signature is wrong, nothing hangs or leaks, and what fails is as documented."""
    assert [] == found.wrong(PATIENCE)


def test_there_was_a_storm(found: Storm) -> None:
    """Helpers were killed, calls failed, and after each kill there was service again."""
    assert found.told["killed"]
    assert found.told["failures"]
    assert len(found.told["killed"]) == len(found.told["back"])
