"""`python -m p11host`: the command line."""

from p11host.cli import main

main()
