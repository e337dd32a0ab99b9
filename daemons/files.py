"""Files that only their owner may read: keys, secrets, state."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from pp_model.errors import PurchasePowerError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class PrivateFileError(PurchasePowerError):
    """A private file that is missing, in the way, or open to others; the message says what to do."""


def write_private(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Writes the file so that it is there in full or not at all, on the disk, readable by its owner alone.

    Raises:
        PrivateFileError: the file exists and `replace` is false. It is left as it was.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # with mode 600
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            path.hardlink_to(temporary)  # unlike a rename, it does not replace
    except FileExistsError:
        raise PrivateFileError(f"{path} exists and was left as it is. Move it away first to make a new one.") from None
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def check_private(path: Path) -> None:
    """Returns if the file or folder is there and neither its group nor others can read, write or enter it.

    Raises:
        PrivateFileError: otherwise, with the command that mends it.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        raise PrivateFileError(f"{path} does not exist. Check the path, or restore it from your backup.") from None
    if mode & _OTHERS:
        right = "700" if path.is_dir() else "600"
        raise PrivateFileError(
            f"{path} is open to others (mode {mode:03o}; allowed: {right}). Run: chmod {right} {path}"
        )


def _sync_folder(folder: Path) -> None:
    """Puts the folder's new entry on the disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
