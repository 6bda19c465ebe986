"""python-pkcs11 across os.fork, multiprocessing and concurrent.futures, inherited or not."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import pkcs11
import pytest
from application import in_child
from brokers import module
from life import Host, hosted

import p11host
from p11host.throwaway import Token, make_token

pytest_plugins = ["life_fixtures"]

WORKERS = 2
DATA = b"data"


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Token:
    """Return a SoftHSM token for all tests of this file."""
    return make_token(tmp_path_factory.mktemp("token"))


@pytest.fixture(scope="module")
def inheriting(tmp_path_factory: pytest.TempPathFactory, token: Token) -> Iterator[Host]:
    """Return a broker with that token, which children inherit."""
    table = module("soft", token.provider, env=dict(token.env), fork="inherit")
    with hosted(tmp_path_factory.mktemp("inheriting"), table) as host:
        yield host


@pytest.fixture(scope="module")
def beginning_anew(tmp_path_factory: pytest.TempPathFactory, token: Token) -> Iterator[Host]:
    """Return a broker with that token, which children get anew."""
    table = module("soft", token.provider, env=dict(token.env))
    with hosted(tmp_path_factory.mktemp("anew"), table) as host:
        yield host


class Maker:
    """What a program makes before it forks: a session that is logged in, and a key of that session."""

    def __init__(self, label: str, pin: str) -> None:
        self.label, self.pin = label, pin
        self.session: Any = p11host.lib().get_token(token_label=label).open(user_pin=pin)
        self.key: Any = self.session.generate_key(pkcs11.KeyType.AES, 256, store=False)

    def encrypt(self) -> str:
        """Encrypt; return the ciphertext, or the name of the exception."""
        try:
            return encrypt_with(self.key)
        except pkcs11.PKCS11Error as error:
            return type(error).__name__

    def begin_anew(self) -> str:
        """Open a session and log in as a fresh program would; encrypt with a key of its own."""
        with p11host.lib().get_token(token_label=self.label).open(user_pin=self.pin) as session:
            key = session.generate_key(pkcs11.KeyType.AES, 256, store=False)
            return encrypt_with(key)


def encrypt_with(key: Any) -> str:
    """Return what a key makes of one text."""
    ciphertext: bytes = key.encrypt(DATA, mechanism_param=bytes(16))
    return ciphertext.hex()


class Known:
    """What a forked worker finds: a module's global, as in a program."""

    maker: Maker | None = None


def encrypt_as_worker(_: int) -> str:
    """Encrypt with what the parent made."""
    assert Known.maker is not None
    return Known.maker.encrypt()


def by_fork() -> list[str]:
    """Encrypt in children of os.fork."""
    return [in_child(partial(encrypt_as_worker, i)) for i in range(WORKERS)]


def by_multiprocessing() -> list[str]:
    """Encrypt in the workers of a pool."""
    with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
        return pool.map(encrypt_as_worker, range(WORKERS), chunksize=1)


def by_executor() -> list[str]:
    """Encrypt in the workers of an executor."""
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(WORKERS, mp_context=context) as executor:
        return list(executor.map(encrypt_as_worker, range(WORKERS)))


WAYS: dict[str, Callable[[], list[str]]] = {
    "fork": by_fork,
    "multiprocessing": by_multiprocessing,
    "executor": by_executor,
}


def encrypt_in_workers(way: str, label: str, pin: str) -> list[Any]:
    """Encrypt in the parent, in workers, and in the parent again."""
    Known.maker = Maker(label, pin)
    return [Known.maker.encrypt(), WAYS[way](), Known.maker.encrypt()]


@pytest.mark.parametrize("way", WAYS)
def test_objects_go_on_in_workers(way: str, inheriting: Host, token: Token) -> None:
    """With inherit a session and a key made before the fork work in every worker as they are."""
    before, workers, after = inheriting.play(encrypt_in_workers, way, token.label, token.pin)

    assert len(bytes.fromhex(before)) == 16
    assert [before] * WORKERS == workers
    assert before == after


@pytest.mark.parametrize("way", WAYS)
def test_objects_are_refused_in_workers(way: str, beginning_anew: Host, token: Token) -> None:
    """With reinit they raise SessionHandleInvalid in every worker, and go on in the parent."""
    before, workers, after = beginning_anew.play(encrypt_in_workers, way, token.label, token.pin)

    assert len(bytes.fromhex(before)) == 16
    assert ["SessionHandleInvalid"] * WORKERS == workers
    assert before == after


def test_fresh_token_in_a_child(beginning_anew: Host, token: Token) -> None:
    """With reinit a child that asks for its token anew, and logs in, works."""
    refused, works = beginning_anew.play(refused_then_anew, token.label, token.pin)

    assert "SessionHandleInvalid" == refused
    assert len(bytes.fromhex(works)) == 16


def refused_then_anew(label: str, pin: str) -> list[str]:
    """In a child use what the parent made, then begin anew."""
    maker = Maker(label, pin)
    found: list[str] = in_child(lambda: [maker.encrypt(), maker.begin_anew()])
    return found


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_that_do_not_inherit_memory(method: str, inheriting: Host, token: Token) -> None:
    """Workers that are spawned know nothing of their parent's: they begin anew, also with inherit."""
    assert [True] * WORKERS == inheriting.play(spawn_workers, method, token.label, token.pin)


def spawn_workers(method: str, label: str, pin: str) -> list[bool]:
    """Encrypt in the parent, and begin anew in workers that share no memory with it."""
    Maker(label, pin).encrypt()
    arguments = [(label, pin)] * WORKERS
    with multiprocessing.get_context(method).Pool(WORKERS) as pool:
        return pool.starmap(encrypts_anew, arguments, chunksize=1)


def encrypts_anew(label: str, pin: str) -> bool:
    """Encrypt with a session and a key of this process's own, and tell whether that is all it had."""
    return len(bytes.fromhex(Maker(label, pin).encrypt())) == 16 and Known.maker is None


def test_end_of_a_worker_is_not_its_parents(inheriting: Host, token: Token) -> None:
    """A child that ends through every exit handler, as Python programs do, leaves its parent alone."""
    before, status, after = inheriting.play(exit_in_child, token.label, token.pin)

    assert 0 == status
    assert before == after


def exit_in_child(label: str, pin: str) -> list[Any]:
    """Encrypt in a child that then ends by SystemExit."""
    maker = Maker(label, pin)
    before = maker.encrypt()
    pid = os.fork()
    if pid == 0:
        raise SystemExit(0 if maker.encrypt() == before else 1)
    _, status = os.waitpid(pid, 0)
    return [before, status, maker.encrypt()]
