"""Writing results: what is checked before the work, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from gap3d_app.errors import OutputError
from gap3d_app.settings import FORMATS

# There is no way to read the mask without setting it, which must not happen while others write.
_UMASK = os.umask(0o022)
os.umask(_UMASK)

NEEDED_BYTES = 64 * 2**20
"""Free space asked for before a run: a GLB with its texture, a PLY and a turntable fit into it."""


def check_output(path: str | Path, needed_bytes: int = 0) -> Path:
    """Make sure that a result can be written, before the work for it begins.

    Args:
        path: file to be written; its folder must exist.
        needed_bytes: free space to ask for.

    Raises:
        OutputError: unknown ending, missing folder, a folder in place of the file, no permission, no space.
    """
    path = Path(path)
    endings = ", ".join("." + name for name in FORMATS)
    if path.suffix.lower()[1:] not in FORMATS:
        raise OutputError(f"The output {str(path)!r} has an unknown ending; it must be one of {endings}.")
    try:
        _check_place(path)
        # Asking the file system is the only sure test: permission bits say little about mounts and roots.
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".gap3d-", suffix=".tmp"):
            pass
        if path.exists() and not os.access(path, os.W_OK):
            raise OutputError(f"The output {str(path)!r} may not be replaced; choose another name.")
        stats = os.statvfs(path.parent) if hasattr(os, "statvfs") else None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise _unwritable(path, error) from error
    if stats and stats.f_bavail * stats.f_frsize < needed_bytes:
        free = stats.f_bavail * stats.f_frsize / 2**20
        raise OutputError(
            f"The disk of {str(path)!r} has {free:.0f} MB left and {needed_bytes / 2**20:.0f} MB are needed; "
            "make room."
        )
    return path


def write_atomic(path: str | os.PathLike, content: bytes | Callable[[Path], object]) -> Path:
    """Write a file so that readers see either nothing new or all of it.

    Args:
        path: target; an existing file is replaced.
        content: the bytes, or a function that writes to the temporary path it is given (same folder and suffix).

    Returns:
        The target path.

    Raises:
        OutputError: the folder is missing, it may not be written, the target is a folder, or the disk is full.
            What else the function raises passes through; nothing is left behind either way.
    """
    target = Path(path)
    _check_place(target)
    temporary = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.stem[:40]}-", suffix=target.suffix, dir=target.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            if isinstance(content, bytes | bytearray | memoryview):
                file.write(content)
        if callable(content):
            content(temporary)
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return target


def _check_place(path: Path) -> None:
    if not path.parent.is_dir():
        raise OutputError(f"The folder {str(path.parent)!r} of the output does not exist; make it first.")
    if path.is_dir():
        raise OutputError(f"The output {str(path)!r} is a folder; give the name of a file.")


def _unwritable(path: Path, error: Exception) -> OutputError:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"The disk is full, so {str(path)!r} was not written; make room and run again.")
    reason = getattr(error, "strerror", None) or error
    return OutputError(f"The output {str(path)!r} cannot be written: {reason}; choose another place.")
