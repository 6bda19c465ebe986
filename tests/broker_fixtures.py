"""Fixtures of the tests of the broker; what they are made of is in brokers.py.

`P11HOST_TEST_HELPER` is the path of a helper and `P11HOST_TEST_PROVIDER` of a provider for it; without them
the helper is fake_helper.py and the provider a library without code.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import fake_helper
import pytest
from brokers import Broker, Starter, module
from elf import Library


@pytest.fixture
def fake_program(tmp_path: Path) -> Path:
    """Return the fake helper's program."""
    return fake_helper.install(tmp_path)


@pytest.fixture
def provider(tmp_path: Path) -> Path:
    """Return a provider that the helper under test can load."""
    named = os.environ.get("P11HOST_TEST_PROVIDER")
    return Path(named) if named else Library().write(tmp_path / "provider.so")


@pytest.fixture
def starter(tmp_path: Path, fake_program: Path) -> Iterator[Starter]:
    """Return what starts brokers that use the helper under test."""
    named = os.environ.get("P11HOST_TEST_HELPER")
    starter = Starter(tmp_path, Path(named) if named else fake_program)
    yield starter
    starter.end_all()


@pytest.fixture
def broker(starter: Starter, provider: Path) -> Broker:
    """Return a broker with two modules, `one` and `two`."""
    return starter.start(module("one", provider) + module("two", provider))
