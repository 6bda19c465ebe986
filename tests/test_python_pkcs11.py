"""python-pkcs11's own test suite: the same outcome, test by test, through the shim."""

import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from shutil import copytree
from xml.etree import ElementTree

import pytest
from reach import Reach, reached

from p11host.throwaway import make_token

ROOT = Path(__file__).resolve().parent.parent
SUITE = ROOT / ".cache" / f"python-pkcs11-{version('python-pkcs11')}" / "tests"
PATIENCE_S = 300


@pytest.mark.timeout(2 * PATIENCE_S)
def test_suite_has_the_same_outcome(tmp_path: Path) -> None:
    """What passes on SoftHSM directly passes through p11host; nothing else fails or is skipped."""
    assert SUITE.is_dir(), f"{SUITE} is missing: scripts/setup.sh test"

    direct, ours = outcomes("direct", tmp_path), outcomes("p11host", tmp_path)

    assert Counter(direct.values())["passed"] > 100
    assert direct == ours


def outcomes(name: str, tmp_path: Path) -> Mapping[str, str]:
    """Run the suite on a new token by one way; return how each test ended."""
    directory = tmp_path / name
    directory.mkdir(mode=0o700)
    token = make_token(directory)
    with reached(name, token) as reach:
        report = run_suite(reach, directory)
    cases = ElementTree.parse(report).iter("testcase")  # noqa: S314 (pytest wrote it)
    return {f"{case.get('classname')}.{case.get('name')}": outcome(case) for case in cases}


def run_suite(reach: Reach, directory: Path) -> Path:
    """Run the suite away from its package's sources; return its report."""
    copytree(SUITE, directory / "tests")
    # The suite knows by this name that it may rely on what SoftHSM can do.
    library = directory / "libsofthsm2.so"
    library.symlink_to(reach.module)
    env = {
        "PKCS11_MODULE": str(library),
        "PKCS11_TOKEN_LABEL": reach.token.label,
        "PKCS11_TOKEN_PIN": reach.token.pin,
        "PKCS11_TOKEN_SO_PIN": reach.token.so_pin,
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--junitxml=report.xml",
        "tests",
    ]
    done = subprocess.run(
        command,
        cwd=directory,
        env=reach.environ | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return directory / "report.xml"


def outcome(case: ElementTree.Element) -> str:
    """Return how a test ended."""
    return next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
