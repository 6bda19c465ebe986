"""Fixtures: throw-away tokens, and the ways to them."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from reach import NAMES, Reach, reached

from p11host.throwaway import Token, make_token


def pytest_configure() -> None:
    """Have what tests start end by Ctrl-C, also where the tests themselves were started in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def token(tmp_path: Path) -> Token:
    """Return a new SoftHSM token with known PINs."""
    directory = tmp_path / "token"
    directory.mkdir(mode=0o700)
    return make_token(directory)


@pytest.fixture(params=NAMES)
def reach(request: pytest.FixtureRequest, token: Token) -> Iterator[Reach]:
    """Return the token as reached directly, then the same test through p11host."""
    with reached(request.param, token) as way:
        yield way


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return a directory for the files of a test."""
    directory = tmp_path / "work"
    directory.mkdir()
    return directory
