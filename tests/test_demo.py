"""`make demo` does what README says of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parent.parent / "scripts" / "demo.py"


def test_demo_signs_and_shows_who_runs_what() -> None:
    """Two programs sign and verify; the provider is mapped in the helper and not in the application."""
    done = subprocess.run(
        [sys.executable, "-P", DEMO],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=os.environ | {"COLUMNS": "120"},
    )

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "Signature is valid" in done.stdout
    assert "verified: yes" in done.stdout
    assert re.search(r"application \(python\) +│ \d+ +│ mapped +│ no", done.stdout)
    # A helper is not dumpable: its maps are for root.
    seen = r"no +│ mapped" if os.geteuid() == 0 else r"only root may look"
    assert re.search(rf"helper +│ \d+ +│ {seen}", done.stdout)
    assert "p11host add /path/to/provider.so" in done.stdout


def test_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    """After the demo there is no file of it and no process of it."""
    env = os.environ | {"TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-P", DEMO], capture_output=True, timeout=100, check=False, env=env
    )

    assert 0 == done.returncode
    assert [] == list(tmp_path.iterdir())
