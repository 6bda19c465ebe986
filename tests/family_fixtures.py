"""Brokers whose modules children share with their parents."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from brokers import module
from life import Host, hosted

from p11host.throwaway import make_token


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Return a broker with a SoftHSM token that children share, for all tests of a file."""
    directory = tmp_path_factory.mktemp("family")
    token = make_token(directory)
    with hosted(directory, module("soft", token.provider, env=dict(token.env), fork="inherit")) as host:
        yield host


@pytest.fixture(scope="module")
def odds(tmp_path_factory: pytest.TempPathFactory, odd: Path) -> Iterator[Host]:
    """Return a broker with a provider that counts, and that children share."""
    with hosted(tmp_path_factory.mktemp("odds"), module("odd", odd, fork="inherit")) as host:
        yield host


@pytest.fixture(params=["page", "pid"])
def env(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """Return the environment for each way to notice a fork: a page that the kernel wipes, and the pid."""
    return {"P11HOST_FORK_DETECTION": request.param}
