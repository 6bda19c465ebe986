"""What each server does by each way to its token, as a table: the one in docs/servers.md.

    .venv/bin/python tests/servers_table.py [VISITS]

Each cell says how many of so many visits were answered well: after the start, after a reload and, with nginx,
after the program was replaced; of OpenSSH's, which are an eighth as many, how many logins worked. Nothing is
expected here: what must work is tested by test_servers.py and test_ssh_recipes.py.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from reach import Reach, forking, reached
from recipe import LABEL
from servers import WORKERS, apache, nginx, stunnel
from sshd import host_agent, logins, sshd
from test_python_fork import Page, ask, gunicorn, write_page
from tls import CLIENTS, Site, make_site, visits

from p11host.bench.ways import Provider, through_peer
from p11host.throwaway import Token, make_token

WAYS = ("direct", "p11-kit", "reinit", "inherit")
PATIENCE = 5

#: Runs a server with the key, in a directory; yields how many visits were answered, for each step.
Row = Callable[[Reach, Path, int], Iterator[str]]


@contextmanager
def way(name: str, token: Token) -> Iterator[Reach]:
    """Yield the token as reached by the way of that name."""
    if name == "direct":
        with reached(name, token) as reach:
            yield reach
    elif name == "p11-kit":
        provider = Provider("softhsm", token.provider, token.label, token.pin, token.env)
        with through_peer(provider, token.directory) as target:
            assert target is not None, "p11-kit is missing: scripts/setup.sh test"
            yield Reach(name, target.module, target.env, token)
    else:
        with forking(name, token) as reach:
            yield reach


def visited(site: Site, count: int) -> str:
    """Visit so many times; return how many were answered, and say on standard error why others were not."""
    done = visits(site, count)
    print(f"{site.reach.name}: {dict(done.failures)}", file=sys.stderr)
    return done.of()


def nginx_of(user: str) -> Row:
    """Return the row of nginx with workers of a user."""

    def row(reach: Reach, directory: Path, count: int) -> Iterator[str]:
        site = make_site(reach, directory, PATIENCE)
        with nginx(site, user) as server:
            yield visited(site, count)
            old = server.pid
            server.reload()
            yield visited(site, count)
            server.upgrade()
            yield visited(site, count) if server.pid != old else "not replaced"

    return row


def apache_of(user: str) -> Row:
    """Return the row of Apache with processes of a user."""

    def row(reach: Reach, directory: Path, count: int) -> Iterator[str]:
        site = make_site(reach, directory, PATIENCE)
        with apache(site, user) as server:
            yield visited(site, count)
            server.reload()
            yield visited(site, count)

    return row


def of_stunnel(reach: Reach, directory: Path, count: int) -> Iterator[str]:
    """Serve by stunnel."""
    site = make_site(reach, directory, PATIENCE)
    with stunnel(site) as server:
        yield visited(site, count)
        server.reload()
        yield visited(site, count)


def of_gunicorn(reach: Reach, directory: Path, count: int) -> Iterator[str]:
    """Serve signatures by gunicorn with `--preload`."""
    page = write_page(reach, directory)
    signing = directory / "signing.py"
    text = signing.read_text().replace("import p11host\n", "import pkcs11\n")
    signing.write_text(text.replace("p11host.lib()", f"pkcs11.lib({str(reach.module)!r})"))
    with gunicorn(page, WORKERS) as port, ThreadPoolExecutor(CLIENTS) as pool:
        good = sum(pool.map(lambda _: signs(page, port), range(count)))
        yield f"{good}/{count}"


def signs(page: Page, port: int) -> bool:
    """Tell whether the endpoint signs."""
    with suppress(OSError, AssertionError):
        return bool(ask(page, port))
    return False


def openssh_of(name: str, *, agent: bool = False) -> Row:
    """Return the row of logins by a recipe, at a sshd whose host key is an agent's if `agent` says so."""

    def row(reach: Reach, directory: Path, count: int) -> Iterator[str]:
        reach.user_tool("--keypairgen", "--key-type", "EC:prime256v1", "--id", "01", "--label", "web")
        public = reach.run("ssh-keygen", "-D", reach.module, "-e").stdout
        with ExitStack() as stack:
            host = stack.enter_context(host_agent(reach, directory)) if agent else None
            port = stack.enter_context(sshd(directory, public, host))
            few = count // 8
            yield f"{logins(reach, directory, port, name, few)}/{few}"

    return row


def cell(row: Row, name: str, count: int) -> str:
    """Return what a server did by a way, as far as it came."""
    found: list[str] = []
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="servers-")))
        # Other users must come as far as their own files.
        place.chmod(0o711)
        reach = stack.enter_context(way(name, make_token(place, LABEL)))
        directory = place / "work"
        directory.mkdir()
        try:
            found.extend(row(reach, directory, count))
        except (AssertionError, subprocess.TimeoutExpired) as error:
            print(f"{name}: {error}", file=sys.stderr)
            found.append("fails")
    return ", ".join(found)


def rows() -> dict[str, Row]:
    """Return what is compared."""
    found = {"nginx": nginx_of("www-data"), "Apache prefork": apache_of("www-data")}
    if os.geteuid() == 0:
        found = {"nginx, workers root too": nginx_of("root")} | found
    return found | {
        "stunnel": of_stunnel,
        "gunicorn --preload": of_gunicorn,
        "ssh -I": openssh_of("login.sh"),
        "ssh-agent": openssh_of("agent.sh"),
        "sshd's host key in an agent": openssh_of("agent.sh", agent=True),
    }


def main(count: str = "400") -> None:
    """Print the table."""
    print("| | " + " | ".join(WAYS) + " |")
    print("|---|" + "---|" * len(WAYS))
    for title, row in rows().items():
        cells = [cell(row, name, int(count)) for name in WAYS]
        print(f"| {title} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
