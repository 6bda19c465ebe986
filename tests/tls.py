"""A key on a token that servers use through OpenSSL's engine, and clients that visit such a server.

Knows what a server is told of its key and certificate, and what a visit is. Must not know which server it is.
"""

import os
import random
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from reach import Reach
from recipe import recipe

#: Seconds after which something that must happen will not.
PATIENCE = 30
PAUSE = 0.02
#: Clients that visit at the same time.
CLIENTS = 8
#: Ports that the system gives to nobody by itself.
_PORTS = range(20000, 32000)

#: What the recipes say of where files are.
_CONFIG, _CERTIFICATE = "/etc/p11host/openssl.cnf", "/etc/ssl/certs/web.pem"
_MODULE = "/usr/local/lib/python3.11/site-packages/p11host/p11host.so"


@dataclass(frozen=True)
class Site:
    """What a server is to serve: a key on a token, its certificate, a port; and a directory for its files."""

    reach: Reach
    directory: Path
    port: int
    patience: float = PATIENCE

    @property
    def certificate(self) -> Path:
        """The certificate, signed by its own key."""
        return self.directory / "certificate.pem"

    @property
    def config(self) -> Path:
        """OpenSSL's configuration, which names the engine and its library."""
        return self.directory / "openssl.cnf"

    @property
    def places(self) -> dict[str, object]:
        """What a recipe for a server says of its certificate, and where that is."""
        return {_CERTIFICATE: self.certificate}

    @property
    def env(self) -> dict[str, str]:
        """What a server needs of its environment, to find OpenSSL's engine and the token."""
        return {**self.reach.env, "OPENSSL_CONF": str(self.config)}

    @property
    def environ(self) -> dict[str, str]:
        """The whole environment of the server."""
        return os.environ | self.env


@dataclass(frozen=True)
class Visits:
    """What came of many visits: answers and failures, each with its number, and how long it took."""

    answers: Mapping[str, int]
    failures: Mapping[str, int]
    seconds: float

    def of(self) -> str:
        """Tell how many there were and how many were answered."""
        good = sum(self.answers.values())
        return f"{good}/{good + sum(self.failures.values())}"


def make_site(reach: Reach, directory: Path, patience: float = PATIENCE) -> Site:
    """Make a key, on a token called as in the recipes, and its certificate; clients are this patient."""
    site = Site(reach, directory, free_port(), patience)
    site.config.write_text(recipe(site.config.name, {_MODULE: reach.module}))
    places = {"$(p11host path)": reach.module, _CONFIG: site.config, **site.places}
    reach.run("sh", "-ec", recipe("key.sh", places))
    return site


def free_port() -> int:
    """Return a port of the loopback device where nobody listens."""
    return next(port for port in random.sample(_PORTS, len(_PORTS)) if _is_free(port))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def visit(site: Site, context: ssl.SSLContext | None = None) -> str:
    """Connect, with a handshake that the key must sign; return the last line of the answer."""
    context = context or trust(site)
    with (
        socket.create_connection(("127.0.0.1", site.port), timeout=site.patience) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as stream,
    ):
        stream.sendall(b"GET /page HTTP/1.0\r\nHost: localhost\r\n\r\n")
        with stream.makefile("rb") as file:
            lines = file.read().split(b"\n")
    return lines[-1].decode() if lines[-1] else lines[-2].decode()


def trust(site: Site) -> ssl.SSLContext:
    """Return a context in which the site's certificate is good, and no other."""
    return ssl.create_default_context(cafile=str(site.certificate))


def visits(site: Site, count: int) -> Visits:
    """Visit many times, several clients at once."""
    context = trust(site)
    start = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        done = list(pool.map(lambda _: _attempt(site, context), range(count)))
    answers, failures = (_counted(text for good, text in done if good is wanted) for wanted in (True, False))
    return Visits(answers, failures, time.monotonic() - start)


def await_listener(port: int) -> None:
    """Return when somebody listens there."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
        except ConnectionRefusedError:
            assert time.monotonic() < end, f"nobody listens at port {port}"
            time.sleep(PAUSE)
        else:
            return


def _attempt(site: Site, context: ssl.SSLContext) -> tuple[bool, str]:
    try:
        return True, visit(site, context)
    except (OSError, IndexError) as error:
        return False, f"{type(error).__name__}: {error}"


def _counted(texts: Iterable[str]) -> Mapping[str, int]:
    return dict(Counter(texts))
