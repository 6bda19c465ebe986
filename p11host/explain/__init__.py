"""What the tables know of a name or a number, for whoever wonders why a call was answered as it was.

`entries.py` gathers it, `codes.py` says when p11host itself returns a CKR, `vendors.py` adds what a
configuration knows.
"""
