"""What a module may do: profiles of known providers, what the configuration adds, and both made one.

    settings.py  what a configuration says of a module's sandbox
    known.py     conf/sandbox.toml: the strict default, and the providers that p11host knows
    resolve.py   both, with names of variables and the provider's own files looked up: a Profile
    packed.py    a Profile as a helper takes it
    kernel.py    what this kernel has to confine a helper with

Knows paths and capabilities. How a process is confined is the helper's (shim/sandbox.c).
"""
