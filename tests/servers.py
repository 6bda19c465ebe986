"""The system's own servers, as their packages install them, each with a key that its first process loads.

Knows how each is started, told to reload and ended, and where it is to keep its files; the rest of its
configuration is the recipe for it. What it is asked is tls.py's.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from life import has_ended
from recipe import recipe
from tls import PATIENCE, PAUSE, Site

WORKERS = 4


@dataclass
class Server:
    """A server that has become a daemon: its files, and the process that leads it."""

    site: Site
    pid: int = 0
    #: Its processes' group: those that replace the first one stay in it.
    group: int = 0

    @property
    def pidfile(self) -> Path:
        """Where it says its pid."""
        return self.site.directory / "server.pid"

    @property
    def log(self) -> Path:
        """Where it says what went wrong."""
        return self.site.directory / "server.log"

    def start(self, *command: str | Path) -> None:
        """Run a program that returns when its daemon serves."""
        with self.log.open("ab") as log:
            done = subprocess.run(
                [str(word) for word in command],
                env=self.site.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=PATIENCE,
                check=False,
            )
        assert done.returncode == 0, self.log.read_text()
        self.pid = self.group = self.pid_but(0)

    def pid_but(self, old: int) -> int:
        """Return the pid that the server has written, once it is another than `old`."""
        return until(lambda: (pid := self._read()) != old and pid)

    def _read(self) -> int:
        with suppress(FileNotFoundError, ValueError):
            return int(self.pidfile.read_text())
        return 0

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process that leads."""
        os.kill(self.pid, number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Have it end, and wait until it has."""
        self.send(number)
        assert has_ended(self.pid), f"pid {self.pid} does not end"
        self.pid = 0

    def kill(self) -> None:
        """End all that is left of it."""
        # A daemon leads a session of its own.
        if group := self.group or self._read():
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


def until(ask: Callable[[], int]) -> int:
    """Return what `ask` returns, once it is something."""
    end = time.monotonic() + PATIENCE
    while not (answer := ask()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(PAUSE)
    return answer


def program(name: str) -> str:
    """Return the path of a program that administrators use."""
    found = shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/bin")
    assert found, f"{name} is missing: scripts/setup.sh test"
    return found


# ---- nginx ----

#: What is said on nginx's command line, of where its files are.
_NGINX = "pid {server.pidfile}; error_log {server.log}; {keep}"
#: Where it keeps what it is sent, if that is long.
_NGINX_HTTP = "\n".join(
    f"    {name}_temp_path {{directory}}/{name};"
    for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


class Nginx(Server):
    """An nginx whose workers answer with their pids."""

    def reload(self) -> None:
        """Have new workers made, with the key loaded anew in the process that leads."""
        self.send(signal.SIGHUP)

    def upgrade(self) -> None:
        """Have a new nginx started beside the old one, on its sockets, and end the old one."""
        old = self.pid
        self.send(signal.SIGUSR2)
        new = self.pid_but(old)
        self.stop(signal.SIGQUIT)
        self.pid = new


@contextmanager
def nginx(site: Site, user: str = "www-data") -> Iterator[Nginx]:
    """Run nginx as a daemon, with workers that are this user's if we may give them away."""
    server = Nginx(site)
    config = site.directory / "nginx.conf"
    text = recipe(
        config.name,
        {
            "user www-data;": f"user {user};" if os.geteuid() == 0 else "",
            # Each worker has a queue of its own, or one of them would take most.
            "listen 443 ssl;": f"listen 127.0.0.1:{site.port} ssl reuseport;",
            "http {\n": "http {\n    access_log off;\n" + _NGINX_HTTP.format(directory=site.directory),
            **site.places,
        },
    )
    config.write_text(text)
    keep = " ".join(f"env {name};" for name in site.reach.env)
    files = _NGINX.format(server=server, keep=keep)
    try:
        server.start(program("nginx"), "-e", server.log, "-p", site.directory, "-c", config, "-g", files)
        yield server
    finally:
        server.kill()


# ---- Apache ----

_APACHE_MODULES = Path("/usr/lib/apache2/modules")
_APACHE = """\
ServerRoot {directory}
ServerName localhost
DefaultRuntimeDir {directory}
Mutex file:{directory} default
PidFile {server.pidfile}
ErrorLog {server.log}
LoadModule mpm_prefork_module {modules}/mod_mpm_prefork.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule ssl_module {modules}/mod_ssl.so
{user}
Listen 127.0.0.1:{site.port}
StartServers {workers}
MinSpareServers {workers}
MaxRequestWorkers {most}
LogFormat %P pid
CustomLog {server.served} pid
<Location />
    Require all denied
</Location>
ErrorDocument 403 served
"""


class Apache(Server):
    """An Apache whose processes note in a file that they have served."""

    @property
    def served(self) -> Path:
        """Where each process writes its pid, once for a visit."""
        return self.site.directory / "served"

    def serving(self) -> set[int]:
        """Return the pids of those that have served."""
        return {int(line) for line in self.served.read_text().split("\n")[:-1]}

    def reload(self) -> None:
        """Have the key loaded anew, and all processes but the first replaced when they are idle."""
        self.send(signal.SIGUSR1)


@contextmanager
def apache(site: Site, user: str = "www-data") -> Iterator[Apache]:
    """Run Apache as a daemon, with processes that are this user's if we may give them away."""
    server = Apache(site)
    config = site.directory / "apache.conf"
    rest = _APACHE.format(
        server=server,
        site=site,
        directory=site.directory,
        modules=_APACHE_MODULES,
        workers=WORKERS,
        most=2 * WORKERS,
        user=f"User {user}\nGroup {user}" if os.geteuid() == 0 else "",
    )
    config.write_text(rest + recipe(config.name, {"*:443": f"127.0.0.1:{site.port}", **site.places}))
    try:
        server.start(program("apache2"), "-f", config, "-k", "start")
        yield server
    finally:
        server.kill()


# ---- stunnel ----

_STUNNEL = "pid = {server.pidfile}\noutput = {server.log}\ndebug = notice\n"


class Stunnel(Server):
    """A stunnel that forks a program for each connection, from among its threads."""

    def reload(self) -> None:
        """Have the key loaded anew, and wait until it has been."""
        before = self.configured()
        self.send(signal.SIGHUP)
        until(lambda: self.configured() - before)

    def configured(self) -> int:
        """Return how often it has taken its configuration."""
        return self.log.read_text().count("Configuration successful")


@contextmanager
def stunnel(site: Site) -> Iterator[Stunnel]:
    """Run stunnel, which loads the key before it becomes a daemon."""
    server = Stunnel(site)
    config = site.directory / "stunnel.conf"
    page = site.directory / "page"
    page.write_text("#!/bin/sh\nread request; read host; read end; echo served\n")
    page.chmod(0o755)
    places = {
        "accept = 443": f"accept = 127.0.0.1:{site.port}",
        "connect = 127.0.0.1:8080": f"exec = {page}",
        **site.places,
    }
    config.write_text(_STUNNEL.format(server=server) + recipe(config.name, places))
    try:
        server.start(program("stunnel4"), config)
        yield server
    finally:
        server.kill()
