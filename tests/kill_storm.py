"""kill -9 of the helper at random moments, while eight threads sign with SoftHSM and check every signature.

    python tests/kill_storm.py [--resume] [SECONDS]        60 if not said

Prints what came of it, as docs/containment.md has it of a run. Knows brokers; what the application does is
kill_load.py's.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from brokers import module
from kill_load import MODULE, THREADS, load
from life import Host, Playing
from matrix_left import all_processes, end_what_is_left

from p11host.start import private_broker
from p11host.throwaway import Token, make_token

#: What a call may return of a helper that dies before it, in it and after it.
DOCUMENTED = {
    "CKR_DEVICE_REMOVED",
    "CKR_SESSION_HANDLE_INVALID",
    "CKR_FUNCTION_FAILED",
    "CKR_TOKEN_NOT_PRESENT",
}
#: With `resume`, of the calls that were in flight, and of operations whose helper has gone.
RESUMED = {"CKR_DEVICE_REMOVED", "CKR_OPERATION_NOT_INITIALIZED"}
#: Seconds within which there is service again, and KiB by which memory may grow without growing.
BACK, FLAT = 1.0, 8192
SEED = 20240611


@dataclass(frozen=True)
class Storm:
    """What came of a storm."""

    told: Mapping[str, Any]
    broker: Mapping[str, tuple[int, int]]
    """Of the broker, before and after: descriptors, KiB of memory."""
    left: Sequence[str]
    """Helpers that did not end with the broker and the application."""
    resume: bool = False

    def wrong(self, back: float = BACK) -> list[str]:
        """Say what must not have been; `back` is the seconds within which there must be service again."""
        told = self.told
        found = [f"{told[key]} {key}" for key in ("wrong", "stuck") if told[key]]
        documented = RESUMED if self.resume else DOCUMENTED
        found += [f"{name} {rv}" for name, rv, _ in told["failures"] if rv not in documented]
        lost, calls = sum(count for _, _, count in told["failures"]), THREADS * len(told["killed"])
        found += [f"{lost} calls lost, {calls} were in flight"] if self.resume and lost > calls else []
        found += [f"{each:.3f} s without a signature" for each in told["back"] if not 0 <= each < back]
        grown = {key: told["after"][key] - told["before"][key] for key in told["after"]}
        found += [f"{grown['KiB']} KiB more"] if grown["KiB"] > FLAT else []
        # To find an object again a thread needs a channel more, which stays: two descriptors.
        most = 2 * THREADS if self.resume else 0
        found += [f"{grown['descriptors']} descriptors more"] if grown["descriptors"] > most else []
        found += [f"the broker's {key} {now}" for key, now in self.broker.items() if now[1] - now[0] > FLAT]
        return [*found, *self.left] + (["children"] if told["children"] else [])

    def text(self) -> str:
        """Return it for people."""
        told, back = self.told, sorted(self.told["back"])
        lines = [
            f"kills: {len(told['killed'])}",
            f"signatures: {told['signatures']}, wrong: {told['wrong']}, threads that hung: {told['stuck']}",
            "failures: " + (", ".join(f"{n} {rv} {count}" for n, rv, count in told["failures"]) or "none"),
            f"longest signature, with what it took to begin anew: {told['longest'] * 1000:.0f} ms",
        ]
        if back:
            places = {"median": 0.5, "90 %": 0.9, "most": 1.0}
            times = [f"{key} {back[int(at * (len(back) - 1))] * 1000:.0f} ms" for key, at in places.items()]
            lines.append(f"without a signature after a kill: {', '.join(times)}")
        lines.append(f"application: {told['before']} then {told['after']}; broker: {dict(self.broker)}")
        return "\n".join([*lines, *(f"WRONG: {each}" for each in self.wrong())])


def storm(directory: Path, seconds: float, *, resume: bool = False) -> Storm:
    """Have the storm with a broker and a token of its own in a directory."""
    token = make_token(directory)
    # Of our own: its helpers are known by its path.
    provider = Path(shutil.copy(token.provider, directory))
    config = directory / "storm.toml"
    config.write_text(module(MODULE, provider, env=dict(token.env), **resuming(token, resume=resume)))
    with private_broker(config, "off") as broker:
        with Host(broker.env).playing(load, seconds, token.pin, SEED, resume) as application:
            application.report()  # it is warm
            before = broker_resources(broker.pid)
            told = last_report(application)
            application.end()
        after = broker_resources(broker.pid)
    left = end_what_is_left(lambda: [each for each in all_processes() if each.is_helper_of(provider)])
    return Storm(told, {key: (before[key], after[key]) for key in before}, left, resume)


def resuming(token: Token, *, resume: bool) -> dict[str, Any]:
    """Return what the module's table says of going on after a death."""
    pin = token.directory / "pin"
    pin.write_text(token.pin)
    pin.chmod(0o400)
    return {"resume": True, "pin-source": f"file:{pin}"} if resume else {}


def last_report(application: Playing) -> Any:
    """Return what the application tells in the end; before that, it tells of each kill."""
    while not isinstance(told := application.report(), dict):
        pass
    return told


def broker_resources(pid: int) -> dict[str, int]:
    """Return what of the broker's must not grow."""
    fields = Path(f"/proc/{pid}/status").read_text().split()
    return {
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "KiB": int(fields[fields.index("VmRSS:") + 1]),
    }


def main(words: list[str]) -> int:
    """Have the storm and print what came of it."""
    with tempfile.TemporaryDirectory() as name:
        seconds = [float(word) for word in words if word != "--resume"]
        found = storm(Path(name), *(seconds or [60.0]), resume="--resume" in words)
    print(found.text())
    return 1 if found.wrong() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
