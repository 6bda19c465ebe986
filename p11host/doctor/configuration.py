"""The configuration: is it right, who may change it, and is it the broker's.

Knows files. Must not know helpers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p11host.config import Choice, Config, choose, load
from p11host.doctor.findings import Finding, Part, ok, problem
from p11host.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Configured:
    """The configuration, None where it is wrong, and what was found of it."""

    config: Config | None
    part: Part


def configuration(path: Path | None) -> Configured:
    """Read the configuration as a broker would; every fault is a finding."""
    choice = choose(path)
    try:
        config = load(choice)
    except ConfigError as error:
        findings = tuple(map(_fault, error.problems))
        return Configured(None, Part("configuration", findings, {"files": _files(choice)}))
    facts = {
        "files": list(map(str, config.files)),
        "modules": [module.name for module in config.modules],
        "disabled": [module.name for module in config.modules if not module.enabled],
    }
    return Configured(config, Part("configuration", tuple(_findings(config)), facts))


def compared(config: Config | None, status: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what differs between the configuration here and that of the broker that serves us."""
    if config is None:
        return
    names = {module.name for module in config.enabled}
    theirs = {module["name"] for module in status["modules"]}
    # What a rule hides from this user is no difference.
    ruled = {module.name for module in config.enabled if not module.view.is_open}
    if theirs - names or names - theirs - ruled:
        where = ", ".join(status["config"])
        said = f"the broker has other modules than the configuration here: {', '.join(sorted(theirs))}"
        yield Finding(
            "warning", f"{said} (from {where})", "name the one you mean with --config, or P11HOST_SOCKET"
        )


def _files(choice: Choice) -> list[str]:
    return [str(path) for path in choice.paths]


def _fault(text: str) -> Finding:
    """Return a fault of the configuration: it says itself what is expected at which line."""
    found = problem(text)
    return found if found.do else Finding("problem", text, "correct that line, or see conf/p11host.toml")


def _findings(config: Config) -> Iterator[Finding]:
    count = len(config.enabled)
    modules = f"{count} module{'' if count == 1 else 's'}"
    yield ok(f"{', '.join(map(str, config.files))}: {modules}; only root and you may write there")
    for module in config.modules:
        if not module.enabled:
            yield Finding("note", f"module {module.name} is disabled")
    for remark in config.remarks:
        yield Finding("warning" if remark.refused else "note", str(remark))
