"""Return values by their names: one form, wherever a person reads one.

Knows the tables, which it loads when it is first asked. Must not know who returned what.
"""


def ckr(rv: int) -> str:
    """Return the name of a return value, and the number of one that has none."""
    from p11host.tables import tables  # noqa: PLC0415 (a tenth of a second, for a name)

    known = tables().constant("ckr", rv)
    return known.name if known else f"CK_RV {rv:#x}"
