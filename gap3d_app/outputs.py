"""Writing results: what is checked before the work, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gap3d_app.errors import OutputError
from gap3d_app.settings import FORMATS

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
    folder = path.parent
    try:
        if not folder.is_dir():
            raise OutputError(f"The folder {str(folder)!r} of the output does not exist; make it first.")
        if path.is_dir():
            raise OutputError(f"The output {str(path)!r} is a folder; give the name of a file.")
        # Asking the file system is the only sure test: permission bits say little about mounts and roots.
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".gap3d-", suffix=".tmp"):
            pass
        if path.exists() and not os.access(path, os.W_OK):
            raise OutputError(f"The output {str(path)!r} may not be replaced; choose another name.")
        stats = os.statvfs(folder) if hasattr(os, "statvfs") else None
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error
    if stats and stats.f_bavail * stats.f_frsize < needed_bytes:
        free = stats.f_bavail * stats.f_frsize / 2**20
        raise OutputError(
            f"The disk of {str(path)!r} has {free:.0f} MB left and {needed_bytes / 2**20:.0f} MB are needed; "
            "make room."
        )
    return path


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Call write(temporary path in the same folder), then rename; no trace is left on failure.

    Raises:
        OutputError: the disk is full, or the place cannot be written.
    """
    temporary = path.with_name(f".{path.stem}-{os.getpid()}-{os.urandom(4).hex()}{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    except OutputError as error:  # a writer that knows only the temporary name
        if isinstance(error.__cause__, OSError):
            raise _unwritable(path, error.__cause__) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _unwritable(path: Path, error: Exception) -> OutputError:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"The disk is full, so {str(path)!r} was not written; make room and run again.")
    reason = getattr(error, "strerror", None) or error
    return OutputError(f"The output {str(path)!r} cannot be written: {reason}; choose another place.")
