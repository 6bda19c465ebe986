"""What is read from files and written to them: a file is there whole, or not at all.

Knows temporary names. Must not know what the bytes are.
"""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

from p11host.errors import P11HostError

PUBLIC, SECRET = 0o644, 0o600
#: Bytes of what is read whole: no certificate, key or signature is longer.
MOST_BYTES = 16 << 20


def read_whole(path: str) -> bytes:
    """Return the bytes of a file, or of standard input for "-"."""
    try:
        with sys.stdin.buffer if path == "-" else Path(path).open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise P11HostError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MOST_BYTES:
        raise P11HostError(f"{path}: longer than {MOST_BYTES >> 20} MiB, which nothing is that belongs here")
    return data


def write_whole(path: Path, data: bytes, mode: int, *, force: bool = False) -> None:
    """Write a file under a temporary name beside it, then give it its own; nothing else is ever seen of it.

    What is there already is only replaced by `force`; by a link the file it leads to. Into a device or a pipe
    the bytes are written as they are.
    """
    try:
        path = Path(os.path.realpath(path))
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(data)
            return
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as out:
                out.write(data)
                os.fchmod(out.fileno(), mode)
                out.flush()
                os.fsync(out.fileno())
            _name(Path(temporary), path, force=force)
        finally:
            with contextlib.suppress(FileNotFoundError):
                Path(temporary).unlink()
    except FileExistsError as error:
        raise P11HostError(f"{path}: is there already; name another file, or add --force") from error
    except OSError as error:
        raise P11HostError(f"{path}: cannot be written: {error.strerror}") from error


def _name(temporary: Path, path: Path, *, force: bool) -> None:
    """Give a file its name: by a link, which is made only where nothing is; some file systems have none."""
    if not force:
        try:
            path.hardlink_to(temporary)
        except PermissionError:
            if path.exists():
                raise FileExistsError from None
        else:
            return
    temporary.replace(path)
