"""The tables, and the generator that makes C of them. Used by the build; not installed as a package."""
