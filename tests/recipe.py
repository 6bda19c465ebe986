"""The recipes of docs/servers.md and docs/programs.md, as this machine can follow them.

A recipe is a block whose first line names its file. What it says of places and ports is put right here, and
nothing else: a recipe that does not work is seen.
"""

import re
from collections.abc import Mapping
from pathlib import Path

DOCUMENTS = [Path(__file__).resolve().parent.parent / "docs" / name for name in ("servers.md", "programs.md")]
_RECIPE = re.compile(r"^```\w*\n# (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: What the recipes call their token.
LABEL = "mine"


def recipe(name: str, places: Mapping[str, object]) -> str:
    """Return the recipe for a file, with each of these words, which must be there, replaced."""
    recipes: dict[str, str] = dict(found for each in DOCUMENTS for found in _RECIPE.findall(each.read_text()))
    text = recipes[name]
    for theirs, ours in places.items():
        assert theirs in text, f"{name} does not say {theirs}"
        text = text.replace(theirs, str(ours))
    return text
