"""docs/python.md: its programs sign as it says, in children of every sort."""

import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from reach import Reach, forking
from tls import await_listener, free_port

from p11host.throwaway import make_token

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "python.md"
PROGRAM = re.compile(r"^```python\n# (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PATIENCE = 60
WORKERS = 4
REQUESTS = 60


@dataclass(frozen=True)
class Page:
    """The programs of the page, in a directory with a token for them, and what they sign."""

    reach: Reach
    directory: Path
    signature: str

    @property
    def mail(self) -> Path:
        """Where tasks and their results are left for one another."""
        return self.directory / "mail"

    @property
    def environ(self) -> dict[str, str]:
        """The whole environment of the programs."""
        token = self.reach.token
        own = {"TOKEN": token.label, "PIN": token.pin, "MAIL": str(self.mail)}
        # A line that is printed is one write, or lines of several processes mix.
        return self.reach.environ | own | {"HOME": str(self.directory), "PYTHONUNBUFFERED": ""}

    def run(self, program: str, *arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a program, whose end must be `status`."""
        done = subprocess.run(
            [sys.executable, program, *map(str, arguments)],
            cwd=self.directory,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert status == done.returncode, done.stdout + done.stderr
        return done

    def signers(self, program: str, *arguments: object) -> Mapping[str, int]:
        """Run a program that prints signatures; return how often it printed what before them."""
        lines = [line.rpartition(" ") for line in self.run(program, *arguments).stdout.splitlines()]
        assert {self.signature} == {signature for *_, signature in lines}
        return Counter(who for who, *_ in lines)

    @contextmanager
    def serving(self, program: str, *arguments: object) -> Iterator[int]:
        """Run a server, installed beside Python, until the end of the `with`; yield its pid."""
        log = self.directory / f"{program}.log"
        with log.open("wb") as output:
            server = subprocess.Popen(
                [Path(sys.executable).parent / program, *map(str, arguments)],
                cwd=self.directory,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            yield server.pid
        finally:
            server.terminate()
            try:
                status = server.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                server.kill()
                status = server.wait()
        assert 0 == status, log.read_text()


@pytest.fixture(scope="module")
def inherit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Return the page with a module whose children inherit."""
    directory = tmp_path_factory.mktemp("inherit")
    with forking("inherit", make_token(directory)) as reach:
        yield write_page(reach, directory)


@pytest.fixture(scope="module")
def reinit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Return the page with a module whose children begin anew."""
    directory = tmp_path_factory.mktemp("reinit")
    with forking("reinit", make_token(directory)) as reach:
        yield write_page(reach, directory)


@pytest.fixture(params=["inherit", "reinit"])
def either(request: pytest.FixtureRequest) -> Page:
    """Return the page with a module of each sort."""
    page: Page = request.getfixturevalue(request.param)
    return page


def write_page(reach: Reach, directory: Path) -> Page:
    """Write the programs, and make their key."""
    (directory / "mail").mkdir()
    # What gunicorn reads by itself is for one of the tests alone.
    for name, program in PROGRAM.findall(DOCUMENT.read_text()):
        (directory / name.replace("gunicorn.conf", "hook")).write_text(program)
    data, signature = directory / "data", directory / "signature"
    data.write_bytes(b"data")
    reach.user_tool("--keypairgen", "--key-type", "rsa:2048", "--label", "web", "--id", "01")
    reach.user_tool("--sign", "-m", "SHA256-RSA-PKCS", "--id", "01", "-i", data, "-o", signature)
    return Page(reach, directory, signature.read_bytes().hex())


# ---- what was made before the fork ----


def test_forked_children_sign_with_the_key(inherit: Page) -> None:
    """Children sign with the key their parent found, without a PIN, and so does it while they do."""
    assert {"0": 1, "1": 1, "2": 1, "3": 1, "parent": 1} == inherit.signers("forked.py")
    assert {"inherited": 1, "parent": 1} == inherit.signers("anew.py")


@pytest.mark.parametrize("program", ["pool.py", "executor.py", "server.py"])
def test_processes_of_a_pool_sign_with_the_key(inherit: Page, program: str) -> None:
    """So do those of a pool, of an executor, and those forked by a forkserver that holds the login."""
    assert {"": 100} == inherit.signers(program)


def test_child_is_told_and_begins_anew(reinit: Page) -> None:
    """A child that does not inherit gets SessionHandleInvalid, and signs with a key of a new session."""
    assert {"anew": 1, "parent": 1} == reinit.signers("anew.py")


@pytest.mark.parametrize("program", ["pool.py", "executor.py", "server.py"])
def test_program_is_told(reinit: Page, program: str) -> None:
    """Where nothing is inherited, a pool's caller is told the exception that says so."""
    assert "pkcs11.exceptions.SessionHandleInvalid" in reinit.run(program, status=1).stderr


def test_parent_goes_on_after_children_were_refused(reinit: Page) -> None:
    """Children that end with that exception take nothing from their parent."""
    assert {"parent": 1} == reinit.signers("forked.py")


# ---- what processes make themselves ----


@pytest.mark.parametrize("program", ["own.py", "own_executor.py"])
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_process_opens_its_own(either: Page, method: str, program: str) -> None:
    """A process that opens its own key signs, however it was started."""
    # SoftHSM refuses one or the other when several processes open its token at the same moment.
    assert {"": 100} == either.signers(program, method, 1)


# ---- servers ----


def test_gunicorn_preloads_the_key(inherit: Page) -> None:
    """All workers of `gunicorn --preload` sign with the key that was loaded before they were forked."""
    with gunicorn(inherit, WORKERS) as port:
        assert WORKERS == len(signers(inherit, port, WORKERS))


def test_gunicorn_opens_a_key_in_each_worker(reinit: Page) -> None:
    """A worker that inherits nothing signs with the key that its hook has opened."""
    with gunicorn(reinit, 1, "--config", "hook.py") as port:
        assert 1 == len(signers(reinit, port, 1))


@contextmanager
def gunicorn(page: Page, workers: int, *options: str) -> Iterator[int]:
    """Run gunicorn; yield its port."""
    port = free_port()
    address = ["--workers", workers, "--bind", f"127.0.0.1:{port}"]
    with page.serving("gunicorn", "--preload", *options, *address, "endpoint:application"):
        await_listener(port)
        yield port


def signers(page: Page, port: int, count: int) -> set[str]:
    """Have the endpoint sign until so many workers have, several clients at once; return their pids."""
    end = time.monotonic() + PATIENCE
    found: set[str] = set()
    with ThreadPoolExecutor(WORKERS) as pool:
        while len(found) < count and time.monotonic() < end:
            found |= set(pool.map(lambda _: ask(page, port), range(REQUESTS)))
    return found


def ask(page: Page, port: int) -> str:
    """Have the endpoint sign; return the pid of the worker that did."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", data=b"data", timeout=PATIENCE) as answer:
        assert page.signature == answer.read().decode()
        return str(answer.headers["X-Worker"])


def test_celery_inherits_the_key(inherit: Page) -> None:
    """The processes of Celery's prefork pool sign with the key that their parent has opened."""
    with celery(inherit, "tasks", WORKERS) as parent:
        done = inherit.signers("ask.py")

    assert 40 == sum(done.values())
    assert str(parent) not in done


def test_celery_tells_who_asked(reinit: Page) -> None:
    """Where they inherit nothing, a task ends with the exception that says so; its caller is told."""
    with celery(reinit, "tasks", WORKERS):
        assert "pkcs11.exceptions.SessionHandleInvalid" in reinit.run("ask.py", status=1).stderr


def test_celery_opens_a_key_in_each_process(reinit: Page) -> None:
    """A process that opens its own key signs with that."""
    with celery(reinit, "own_tasks", 1) as parent:
        done = reinit.signers("ask.py")

    assert [40] == list(done.values())
    assert str(parent) not in done


@contextmanager
def celery(page: Page, tasks: str, processes: int) -> Iterator[int]:
    """Run a worker with a prefork pool; yield the pid of the process that leads it."""
    # What a caller that failed has left in the directory is nobody's task any more.
    for letter in page.mail.iterdir():
        letter.unlink()
    pool = ["--pool", "prefork", "--concurrency", processes, "--without-gossip", "--without-mingle"]
    with page.serving("celery", "--app", tasks, "worker", *pool) as parent:
        yield parent
