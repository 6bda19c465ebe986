"""`p11host` and `python -m p11host`: the command line."""

import signal

# Ctrl-C before there is anything to end ends the program as it does any other, without a traceback.
_before = signal.getsignal(signal.SIGINT)
if _before is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from p11host import cli  # noqa: E402


def main() -> None:
    """Run the command line and exit."""
    if _before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


if __name__ == "__main__":
    main()
