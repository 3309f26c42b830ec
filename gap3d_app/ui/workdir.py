"""The temporary folder of one server: uploads and results under unguessable names, within a quota."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

QUOTA_BYTES = 2 * 2**30
MAX_AGE_S = 2 * 60 * 60
SWEEP_EVERY_S = 60


@dataclass(frozen=True)
class _Entry:
    path: Path
    size: int
    modified: float


class WorkDir:
    """A private temporary folder that forgets its oldest entries.

    Nothing that a client sends becomes part of a path: result folders are named by `secrets`.

    Attributes:
        root: the folder; removed when the process ends.
        uploads: where gradio keeps uploaded and served files (its cache).
        quota_bytes: the oldest entries go when all together are larger.
        max_age_s: entries that were not written for so long go.
    """

    def __init__(self, quota_bytes: int = QUOTA_BYTES, max_age_s: float = MAX_AGE_S) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="gap3d-"))
        self.uploads = self.root / "uploads"
        self.results = self.root / "results"
        self.uploads.mkdir()
        self.results.mkdir()
        self.quota_bytes, self.max_age_s = quota_bytes, max_age_s
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        atexit.register(self.close)
        threading.Thread(target=self._sweep_forever, name="gap3d-sweep", daemon=True).start()

    @contextmanager
    def new_result(self) -> Iterator[tuple[str, Path]]:
        """An empty folder for a result: its id (32 hex digits) and its path; gone again if filling it fails."""
        self.sweep()
        key = secrets.token_hex(16)
        folder = self.results / key
        folder.mkdir()
        try:
            yield key, folder
        except BaseException:
            _remove(folder)
            raise

    def result(self, key: str | None) -> Path | None:
        """The folder of a result that `new_result` made here, or None when there is none (any more)."""
        if not isinstance(key, str) or len(key) != 32 or not set(key) <= set("0123456789abcdef"):
            return None
        folder = self.results / key
        return folder if folder.is_dir() else None

    def sweep(self) -> None:
        """Remove what is too old, then the oldest until the quota holds."""
        with self._lock:
            entries = sorted(self._entries(), key=lambda entry: entry.modified)
            total = sum(entry.size for entry in entries)
            oldest_allowed = time.time() - self.max_age_s
            for entry in entries:
                if total <= self.quota_bytes and entry.modified >= oldest_allowed:
                    break
                _remove(entry.path)
                total -= entry.size

    def close(self) -> None:
        """Remove the folder; a process that was forked leaves it to the one that made it."""
        if os.getpid() != self._owner:
            return
        self._closed.set()
        shutil.rmtree(self.root, ignore_errors=True)

    def _entries(self) -> list[_Entry]:
        return [_entry(path) for folder in (self.uploads, self.results) if folder.is_dir()
                for path in folder.iterdir()]

    def _sweep_forever(self) -> None:
        while not self._closed.wait(SWEEP_EVERY_S):
            self.sweep()


def _entry(path: Path) -> _Entry:
    size, modified = 0, 0.0
    for item in [path, *path.rglob("*")]:
        try:
            stat = item.stat()
        except OSError:  # removed meanwhile
            continue
        modified = max(modified, stat.st_mtime)
        size += stat.st_size if item.is_file() else 0
    return _Entry(path, size, modified)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
