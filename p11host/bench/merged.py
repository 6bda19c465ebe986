"""`p11host bench --slots`: many slots of many modules in one list, and calls among them.

Knows the modules that are made for that, and the ways to them. Must not know how results are shown.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import tomlkit
from rich.progress import Progress

from p11host import shim_path
from p11host.bench.measures import Sample, Target, run_tool
from p11host.bench.report import DIRECT, OURS, PEER
from p11host.codes import ckr
from p11host.errors import P11HostError
from p11host.start import private_broker

#: p11host with one of the modules.
ALONE = "one module"
MERGED_WAYS = (DIRECT, ALONE, OURS, PEER)
_PROXIES = "usr/lib/*/p11-kit-proxy.so"
_PEER_MODULES = Path("/usr/share/p11-kit/modules")
#: Has a program see these modules of p11-kit's, in a mount namespace of its own.
_SHOW = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: modules and slots of each, calls of each kind, and rounds."""

    modules: int = 10
    slots: int = 20
    lists: int = 100
    calls: int = 20_000
    rounds: int = 7


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured. `takes` is how many microseconds each module needs for its list of slots."""

    name: str
    title: str
    load: str
    takes: int = 0

    def count(self, plan: Plan) -> int:
        """Return how many calls a round makes."""
        return plan.lists if self.load == "slots" else plan.calls


CASES = (
    Case("slow", "C_GetSlotList, each 1 ms", "slots", 1000),
    Case("quick", "C_GetSlotList", "slots"),
    Case("routed", "C_GetSessionInfo", "session-info"),
)

Found = Mapping[str, Mapping[str, list[Sample]]]


@dataclass(frozen=True, slots=True)
class Reached:
    """A library, and what must come before the program that uses it."""

    target: Target
    before: tuple[str, ...] = ()


def run(tool: Path, sleepy: Path, plan: Plan, directory: Path, progress: Progress) -> Found:
    """Return what each round gave of every case, by every way, in the order of the rounds."""
    found: dict[str, dict[str, list[Sample]]] = {case.name: {} for case in CASES}
    with ExitStack() as stack:
        reached = {
            takes: stack.enter_context(_ways(sleepy, plan, directory, takes))
            for takes in {case.takes for case in CASES}
        }
        steps = [(case, way) for _ in range(plan.rounds) for case in CASES for way in MERGED_WAYS]
        for case, way in progress.track(steps, description="listing"):
            sample = _sample(tool, case, plan, reached[case.takes][way])
            found[case.name].setdefault(way, []).append(sample)
    return found


def _sample(tool: Path, case: Case, plan: Plan, way: Reached | str) -> Sample:
    if isinstance(way, str):
        return Sample(None, why=way)
    target = way.target
    command = ["call", str(target.module), target.label, target.pin, case.load, str(case.count(plan))]
    words = [*way.before, str(tool), *command]
    said = run_tool(Path(words[0]), words[1:], target.env)
    if "failed" in said:
        raise P11HostError(f"{case.title}: {said['failed']} returned {ckr(said['rv'])}")
    return Sample(said["median"], said["p99"])


@contextmanager
def _ways(sleepy: Path, plan: Plan, directory: Path, takes: int) -> Iterator[Mapping[str, Reached | str]]:
    """Yield the ways to modules whose lists take so long, or why there is none. Calls go to the last one."""
    env = [
        {"SLEEPY_SLOTS": str(plan.slots), "SLEEPY_LIST": str(takes), "SLEEPY_LABEL": f"m{number}"}
        for number in range(plan.modules)
    ]
    place = directory / f"takes-{takes}"
    place.mkdir()
    last = f"m{plan.modules - 1}"
    with (
        _hosted(sleepy, env[-1:], place / "one.toml") as one,
        _hosted(sleepy, env, place / "all.toml") as every,
    ):
        yield {
            DIRECT: Reached(Target(sleepy, env[-1], last, "none")),
            ALONE: Reached(Target(shim_path(), one, last, "none")),
            OURS: Reached(Target(shim_path(), every, last, "none")),
            PEER: _through_peer(sleepy, env, place / "p11-kit", last),
        }


@contextmanager
def _hosted(sleepy: Path, env: list[dict[str, str]], config: Path) -> Iterator[Mapping[str, str]]:
    """Yield the environment in which the shim finds a broker with a module for each environment."""
    modules = {each["SLEEPY_LABEL"]: {"path": str(sleepy), "env": each} for each in env}
    config.write_text(tomlkit.dumps({"module": modules}))
    config.chmod(0o600)
    with private_broker(config, "warning") as broker:
        yield broker.env


def _through_peer(sleepy: Path, env: list[dict[str, str]], modules: Path, label: str) -> Reached | str:
    """Return p11-kit's proxy with a process for each module, as we have one; or why there is none."""
    library = next(Path("/").glob(_PROXIES), None)
    if library is None or shutil.which("p11-kit") is None or not _PEER_MODULES.is_dir():
        return "not installed"
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return "root only"
    modules.mkdir()
    for each in env:
        words = " ".join(f"{name}={value}" for name, value in each.items())
        text = f"remote: |env {words} p11-kit remote {sleepy}\n"
        (modules / f"{each['SLEEPY_LABEL']}.module").write_text(text)
    before = ("unshare", "--mount", "sh", "-c", _SHOW, "sh", str(modules), str(_PEER_MODULES))
    return Reached(Target(library, {}, label, "none"), before)
