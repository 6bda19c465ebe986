"""The text of a configuration file, p11host's or another's, if it may be believed.

Knows owners, modes and lengths. Must not know what the text means.
"""

import os
import stat
from pathlib import Path

from p11host.trust import distrust

#: A configuration is written by people; a file longer than this, in bytes, is something else.
MOST_BYTES = 1 << 20


def read_text(path: Path, errors: str = "strict") -> str:
    """Return the text of a regular file that only root and this user may write: it decides what is loaded.

    `errors`: what becomes of bytes that are not UTF-8, as `bytes.decode` has it.
    """
    # A pipe or a device in its place must not make us wait for it.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise ValueError("not a regular file")
        if mode & stat.S_IWOTH:
            raise ValueError(f"everybody may write it; run: chmod o-w {path}")
        if (fault := distrust(path)) is not None:
            raise ValueError(fault)
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"longer than {MOST_BYTES} bytes, so no configuration")
    return data.decode(errors=errors)
