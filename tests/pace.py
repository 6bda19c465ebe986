"""How fast one module answers while another crashes or hangs again and again: figures, no test.

    python tests/pace.py [SECONDS]        of each, 5 if not said

An application calls SoftHSM from one thread, without a pause, while another of its threads has a hostile
module do nothing, crash or hang. Knows the hostile provider's language; what is measured is pace_load.py's.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from brokers import module
from life import TESTS, Host, Workshop
from pace_load import PLACES, pace

from p11host.start import private_broker
from p11host.throwaway import make_token

#: What the other module does: nothing, or an act in each C_SignInit.
BESIDE = {"nothing": "", "crashes": "segv call C_SignInit", "hangs": "sleep call C_SignInit"}
#: Milliseconds after which a call that hangs is given up.
DEADLINE = 200


def measure(directory: Path, provider: Path, wish: str, seconds: float) -> dict[str, list[float]]:
    """Have an application of its own measure beside a module that does this."""
    directory.mkdir()
    token = make_token(directory)
    config = directory / "pace.toml"
    deadlines = {"short": DEADLINE, "long": DEADLINE}
    hostile = module("hostile", provider, env={"HOSTILE": wish}, deadlines=deadlines)
    config.write_text(hostile + module("good", token.provider, env=dict(token.env)))
    with private_broker(config, "off") as broker:
        found: dict[str, list[float]] = Host(broker.env).play(pace, seconds)
    return found


def main(words: list[str]) -> None:
    """Measure beside each, and print the figures."""
    seconds = float(words[0]) if words else 5.0
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for generate in (TESTS.parent / "specs" / "generate.py", TESTS / "mirror_c.py"):
            subprocess.run([sys.executable, str(generate), str(directory)], check=True)
        provider = Workshop(directory, directory).provider("hostile")
        print(f"| the other module | {' | '.join(PLACES)} | calls | its failures |")
        print("|---|---|---|---|---|---|")
        for beside, wish in BESIDE.items():
            found = measure(directory / beside, provider, wish, seconds)
            *took, count = found["took"]
            cells = [*(f"{each:.1f} us" for each in took), f"{count:.0f}", f"{found['failures'][0]:.0f}"]
            print(f"| {beside} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
