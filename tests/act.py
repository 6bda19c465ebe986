"""Runs a function of a test module as an application; see application.py."""

import sys

from application import main

main(*sys.argv[1:])
