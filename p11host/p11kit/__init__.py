"""p11-kit's own configuration, so that a machine that has one needs no other.

`files` reads one file, `layers` makes one configuration of several as p11-kit does, `modules` says what comes
of it here. Must not load anything of p11-kit.
"""
