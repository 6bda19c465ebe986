"""Fills in the table of what children do, directly on providers, through p11-kit and through the shim.

    .venv/bin/python tests/fork_table.py [COUNT]

forks COUNT children (60) for each cell and writes docs/fork-measured.md. Takes about half an hour.
Knows how each way is set up. What the children do is in programs/fork_table.c.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from brokers import module
from cards.piv import Piv, Stranger
from cards.vpcd import readers
from life import PATIENCE, TESTS, Host, Workshop, hosted
from test_nss import LIBRARY as SOFTOKN
from test_nss import RESERVED, give_pin
from test_opensc import CONF
from test_opensc import LIBRARY as OPENSC

from p11host import shim_path
from p11host.bench.ways import Provider, through_peer
from p11host.tables import tables
from p11host.throwaway import make_token

DEEDS = {
    "begin": "initialises, opens, logs in, signs",
    "sign": "signs in the parent's session",
    "finalize": "only calls C_Finalize",
    "exit": "only exits",
}
FATES = ("hung", "crashed", "wrong")
PIN = "123456"
PATIENCE_S = 1800
MANY, ONE = 8, 1
#: Seconds after which a child hangs: a card in software takes its time, and one call at a time.
SOON, LATE = 8, 60
#: Milliseconds between two signatures of the parent's, so that the card has a turn for others.
REST_MS = "20"
DOCUMENT = TESTS.parent / "docs" / "fork-measured.md"
PROXY = next(Path("/").glob("usr/lib/*/p11-kit-proxy.so"), Path("p11-kit-proxy.so"))
HEAD = """\
# What children do, measured

A parent's threads sign without a pause, and it forks {count} children; each has some seconds to do one thing.
Told is how many of the {count} did well, hung, crashed, got a wrong result, or were refused, and why. *Parent
fails*: meanwhile or afterwards calls of the parent's failed.

Written by `.venv/bin/python tests/fork_table.py {count}`; each cell is made by the same program,
`tests/programs/fork_table.c`. The parent signs with {many} threads over SoftHSM, with one over NSS softokn,
and with one that lets the card rest for {rest} ms after each signature over OpenSC. A child hangs after
{soon} s, with a card after {late} s.

SoftHSM {softhsm}, NSS {nss}, OpenSC {opensc} with a card in software, p11-kit {p11kit}. SoftHSM itself
refuses a few of many processes that log in to one token at the same moment; so it does those that p11-kit's
server or `reinit` give a SoftHSM of their own.

"""


@dataclass(frozen=True)
class Way:
    """A column: what is loaded, where, and with how many threads."""

    name: str
    library: Path
    threads: int
    patience: int
    env: Mapping[str, str] = field(default_factory=dict)
    reserved: str = ""


@dataclass(frozen=True)
class Table:
    """Makes cells."""

    program: Path
    count: int

    def column(self, way: Way) -> list[str]:
        """Return what became of the children by one way, for each deed."""
        return [self._cell(way, deed) for deed in DEEDS]

    def _cell(self, way: Way, deed: str) -> str:
        words = [
            str(self.program),
            str(way.library),
            str(way.threads),
            str(way.patience),
            str(self.count),
            deed,
        ]
        env = os.environ | dict(way.env) | {"FORK_TABLE_PIN": PIN}
        done = subprocess.run(
            [*words, *([way.reserved] if way.reserved else [])],
            env=env,
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, f"{way.name}, {deed}: {done.returncode} {done.stderr}"
        print(f"{way.name}, {deed}: {done.stdout.strip()}", flush=True)
        return told(list(map(int, done.stdout.split())))


def told(numbers: list[int]) -> str:
    """Return what became of the children, by what the program printed, in words."""
    well, hung, crashed, wrong, refused, why, signs = numbers
    counts = dict(zip(FATES, (hung, crashed, wrong), strict=True))
    words = [f"**{name} {count}**" for name, count in counts.items() if count]
    if refused:
        known = tables().constant("ckr", why)
        name = known.name.removeprefix("CKR_") if known else hex(why)
        words.append(f"refused {refused} ({name})")
    if not signs:
        words.append("**parent fails**")
    return ", ".join(words) or f"{well} well"


# ---- ways ----


@contextmanager
def ways_of_softhsm(directory: Path) -> Iterator[list[Way]]:
    """Yield SoftHSM by all ways there are."""
    token = make_token(directory)
    proxied = directory / "pkcs11" / "modules"
    proxied.mkdir(parents=True)
    (directory / "pkcs11" / "pkcs11.conf").write_text("user-config: only\n")
    (proxied / "soft.module").write_text(f"module: {token.provider}\n")
    provider = Provider("soft", token.provider, token.label, token.pin, token.env)
    ours = {mode: module("soft", token.provider, env=dict(token.env), fork=mode) for mode in MODES}
    with through_peer(provider, directory) as peer, shims("SoftHSM", directory, ours, MANY) as shim:
        assert peer is not None, "p11-kit is not installed: apt-get install p11-kit p11-kit-modules"
        proxy = dict(token.env) | {"XDG_CONFIG_HOME": str(directory)}
        yield [
            Way("SoftHSM", token.provider, MANY, SOON, token.env),
            Way("SoftHSM by p11-kit-proxy", PROXY, MANY, SOON, proxy),
            Way("SoftHSM by p11-kit server", Path(peer.module), MANY, SOON, peer.env),
            *shim,
        ]


@contextmanager
def ways_of_softokn(directory: Path) -> Iterator[list[Way]]:
    """Yield NSS softokn directly and by the shim, each with a database of its own, whose PIN is set."""
    texts = {name: softokn_database(directory / name) for name in ("direct", *MODES)}
    ours = {mode: module("nss", SOFTOKN, reserved=texts[mode], fork=mode) for mode in MODES}
    with shims("NSS", directory, ours, ONE) as shim:
        yield [Way("NSS", SOFTOKN, ONE, SOON, reserved=texts["direct"]), *shim]


def softokn_database(directory: Path) -> str:
    """Make a database with a PIN; return the string by which softokn finds it."""
    directory.mkdir()
    text = RESERVED.format(directory)
    Host({}).play(give_pin, str(SOFTOKN), text)
    return text


@contextmanager
def ways_of_opensc(directory: Path) -> Iterator[list[Way]]:
    """Yield OpenSC directly and by the shim, with a card in software."""
    conf = directory / "opensc.conf"
    conf.write_text(CONF)
    with readers(directory, [Piv(PIN.encode()), Stranger()]) as where:
        env = {**where, "OPENSC_CONF": str(conf)}
        rest = {"FORK_TABLE_REST": REST_MS}
        ours = {mode: module("opensc", OPENSC, env=env, fork=mode) for mode in MODES}
        with shims("OpenSC", directory, ours, ONE, LATE) as shim:
            yield [
                Way("OpenSC", OPENSC, ONE, LATE, env | rest),
                *(replace(way, env=dict(way.env) | rest) for way in shim),
            ]


MODES = ("reinit", "inherit")


@contextmanager
def shims(
    name: str, directory: Path, ours: Mapping[str, str], threads: int, patience: int = SOON
) -> Iterator[list[Way]]:
    """Yield the shim over a provider in each mode."""
    with ExitStack() as stack:
        found = []
        for mode, table in ours.items():
            where = directory / f"broker-{mode}"
            where.mkdir()
            host = stack.enter_context(hosted(where, table))
            found.append(Way(f"{name} by p11host, {mode}", shim_path(), threads, patience, host.env))
        yield found


# ---- the document ----


def version(package: str) -> str:
    """Return the version of a Debian package."""
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", package], check=True, capture_output=True, text=True
    )
    return done.stdout.partition("-")[0].partition(":")[2] or done.stdout.partition("-")[0]


def document(count: int, columns: Mapping[str, list[str]]) -> str:
    """Return the table as Markdown, a line for each way."""
    packages = {"softhsm": "libsofthsm2", "nss": "libnss3", "opensc": "opensc-pkcs11", "p11kit": "p11-kit"}
    versions = {name: version(package) for name, package in packages.items()}
    rows = [["a child", *DEEDS.values()], ["---"] * (1 + len(DEEDS))]
    rows += [[name, *cells] for name, cells in columns.items()]
    return HEAD.format(count=count, many=MANY, rest=REST_MS, soon=SOON, late=LATE, **versions) + "".join(
        f"| {' | '.join(row)} |\n" for row in rows
    )


def main(count: int) -> None:
    """Measure all, and write the document."""
    columns: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        generate = [sys.executable, str(TESTS.parent / "specs" / "generate.py"), name]
        subprocess.run(generate, check=True, timeout=PATIENCE)
        table = Table(Workshop(directory, directory).program("fork_table"), count)
        for maker in (ways_of_softhsm, ways_of_softokn, ways_of_opensc):
            own = directory / maker.__name__
            own.mkdir()
            ways = stack.enter_context(maker(own))
            columns |= {way.name: table.column(way) for way in ways}
    DOCUMENT.write_text(document(count, columns))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
