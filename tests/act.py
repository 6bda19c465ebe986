"""Runs a function of a test module as an application; see application.py."""

import sys

from application import main

if __name__ == "__main__":  # and not where multiprocessing imports it in a worker
    main(*sys.argv[1:])
