"""Where spill and cache files lie, and their errors.

The files have no names: whatever ends the process, the system gives their space back, and nobody
else can open them. So there is nothing to remove at exit, or at the next start after a crash.
"""

from __future__ import annotations

import os
import tempfile

from scalops.algebra.errors import ExecutionError
from scalops.algebra.explain import bytes_text

HINT = (
    "make room there, choose another folder (so.session(spill=...), SCALOPS_SPILL), or spill less:"
    " so.session(memory=...) with more memory"
)
_ON_DISK = "/var/tmp"
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


class SpillError(ExecutionError):
    """A spill file cannot be written, or gives back something else than was written."""


def spill_folder(folder: str | None = None) -> str:
    """The folder given; else that of TMPDIR; else the system's for temporary files, unless that
    lies in memory: then /var/tmp."""
    if folder:
        return folder
    usual = tempfile.gettempdir()
    if any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")):
        return usual
    if filesystem_of(usual) in _IN_MEMORY and os.access(_ON_DISK, os.W_OK | os.X_OK):
        return _ON_DISK
    return usual


def filesystem_of(folder: str) -> str:
    """The type of file system that a folder lies on: "" where nobody knows."""
    best, kind = "", ""
    target = os.path.realpath(folder)
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                _, place, found, *_ = line.split(" ")
                inside = target == place or target.startswith(place.rstrip("/") + "/")
                if inside and len(place) >= len(best):
                    best, kind = place, found
    except (OSError, ValueError):
        return ""
    return kind


def free_disk(folder: str | None = None) -> float:
    """Bytes that are free for such files: none where they would lie in memory."""
    place = spill_folder(folder)
    if filesystem_of(place) in _IN_MEMORY:
        return 0.0
    try:
        found = os.statvfs(place)
    except OSError:
        return 0.0
    return float(found.f_bavail * found.f_frsize)


def nameless_file(folder: str | None = None) -> tuple[int, str]:
    """A new file without a name, open for reading and writing; and the folder it lies in.

    Raises: SpillError where no file can be made there.
    """
    place = spill_folder(folder)
    try:
        try:
            return os.open(place, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), place
        except OSError:  # a file system without such files
            # Only its owner may open it (0600), and it was not there before (O_EXCL).
            descriptor, path = tempfile.mkstemp(prefix="scalops-spill-", dir=place)
            os.unlink(path)
            return descriptor, place
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        reason = "there is no such folder (any more)" if gone else error.strerror
        raise SpillError(f"no spill file can be made in {place}: {reason}", hint=HINT) from error


def no_room(folder: str, size: int, end: int, error: OSError) -> SpillError:
    """The error of a spill file that cannot grow."""
    return SpillError(
        f"a spill file in {folder} cannot take {bytes_text(size)} more, behind"
        f" {bytes_text(end)}: {error.strerror}",
        hint=HINT,
    )
