"""Views, packed by the broker's own code: what fuzz_view begins with.

usage: pack_views.py DIRECTORY
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from p11host.selectors import Selection, pack, parse

URIS = (
    "pkcs11:token=a",
    "pkcs11:serial=1;model=b;manufacturer=c",
    "pkcs11:slot-id=3",
    "pkcs11:slot-id=4;slot-description=d;slot-manufacturer=e",
    "pkcs11:slot-description=f;token=",
)


def main(directory: Path) -> None:
    """Write a view for each, of what is shown and of what is hidden, and one of them all."""
    target = directory / "fuzz_view"
    target.mkdir(parents=True, exist_ok=True)
    uris = tuple(map(parse, URIS))
    views = [Selection(((uri,),)) for uri in uris] + [Selection((), (uri,)) for uri in uris]
    views.append(Selection((uris, uris[:2]), uris[2:]))
    for number, view in enumerate(views):
        (target / f"view-{number}").write_bytes(pack(view))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
