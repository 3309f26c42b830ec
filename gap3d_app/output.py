"""Files are written under a temporary name and renamed, so that a failure leaves nothing half-written."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from gap3d_app.errors import OutputError


def write_atomic(path: str | os.PathLike, content: bytes | Callable[[Path], object]) -> Path:
    """Write a file so that readers see either nothing new or all of it.

    Args:
        path: target; an existing file is replaced.
        content: the bytes, or a function that writes to the temporary path it is given (same suffix).

    Returns:
        The target path.

    Raises:
        OutputError: the folder is missing, it may not be written, the target is a folder, or the disk is full.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise OutputError(f"Cannot write {target}: the folder {target.parent} does not exist; create it first.")
    if target.is_dir():
        raise OutputError(f"Cannot write {target}: it is a folder; give a file name.")
    temporary = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.stem[:40]}-", suffix=target.suffix, dir=target.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            if isinstance(content, bytes | bytearray | memoryview):
                file.write(content)
        if callable(content):
            content(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise OutputError(f"Cannot write {target}: {_reason(error)}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return target


def _umask() -> int:
    # There is no way to read the mask without setting it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space is left on the disk; free some or choose another folder."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "this place may not be written; choose another folder."
    return f"{error.strerror or error}; choose another path."
