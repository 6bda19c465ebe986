"""Tokens by hand: finding, logging in, making, reading, writing and using what is on them.

Knows python-pkcs11 and asn1crypto, on the shim. Must not know the command line.
"""
