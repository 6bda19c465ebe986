"""What can go wrong, told in one line that says what to do.

Knows the exit codes of the command line and nothing of what caused an error.
"""

from collections.abc import Mapping, Sequence

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_CONFIG = 3
EXIT_NOT_FOUND = 4
EXIT_LOGIN = 5
EXIT_INVALID = 6
#: As a shell says it of a program that Ctrl-C ended.
EXIT_INTERRUPTED = 130
#: What each means, for the help and the manual.
EXIT_CODES: Mapping[int, str] = {
    0: "done",
    EXIT_FAILED: "failed",
    EXIT_USAGE: "wrong usage",
    EXIT_CONFIG: "wrong configuration",
    EXIT_NOT_FOUND: "what a URI names is not there or not one",
    EXIT_LOGIN: "no login",
    EXIT_INVALID: "a signature is not valid",
    EXIT_INTERRUPTED: "ended by Ctrl-C",
}


class P11HostError(Exception):
    """An error a person can act upon. Its text is for them, without a traceback."""

    exit_code = EXIT_FAILED


class ConfigError(P11HostError):
    """The configuration cannot be used. `problems` holds every fault found, one line each."""

    exit_code = EXIT_CONFIG

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class NotFoundError(P11HostError):
    """What a URI names is not there, or is more than the one thing that is wanted."""

    exit_code = EXIT_NOT_FOUND


class LoginError(P11HostError):
    """Nobody could be logged in: the PIN is wrong, locked, not set or not to be had."""

    exit_code = EXIT_LOGIN


class ProviderError(P11HostError):
    """A provider's file cannot be what it should be: a PKCS#11 library this machine can load."""


class BrokerError(P11HostError):
    """A broker cannot be started, or cannot be reached."""
