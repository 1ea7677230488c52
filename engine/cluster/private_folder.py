"""A folder for one driver's sockets that nobody else may enter, and that nothing outlives."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from scalops.algebra.errors import ExecutionError, SecurityError

_LOCK = "lock"
_SYSTEM = "/tmp"
MOST_PATH = 107  # bytes of a Unix socket's path
_ROOM = 16  # bytes that the names in the folder take


class PrivateFolder:
    """A new folder, mode 0700 whatever the umask is, owned by this user.

    Its lock is held as long as this process, or a fork of it, lives: a folder whose lock is free
    was left by a driver that is gone, and the next one removes it.
    """

    def __init__(self) -> None:
        """Raises: ExecutionError where no folder can be made; SecurityError where it is open."""
        place = _place()
        remove_stale(place)
        try:
            made = tempfile.mkdtemp(prefix=f"{_prefix()}{os.getpid()}-", dir=place)
            self.path = Path(made)
            self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as error:
            raise ExecutionError(
                f"no folder for the sockets of worker processes can be made in {place}: {error}",
                hint="TMPDIR may name another place",
            ) from error
        self._refuse_open()

    def _refuse_open(self) -> None:
        found = os.lstat(self.path)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != 0o700:
            self.remove()
            raise SecurityError(
                f"the folder {self.path} has mode {stat.S_IMODE(found.st_mode):04o} and owner"
                f" {found.st_uid}; mode 0700 and owner {os.geteuid()} are needed",
                hint="TMPDIR may name a folder on a file system that keeps modes",
            )

    def address(self, name: str) -> str:
        """The address of a socket in the folder."""
        return f"ipc://{self.path / name}"

    def remove(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            os.close(self._lock)


def remove_stale(place: Path) -> None:
    """Remove this user's folders whose drivers are gone."""
    with suppress(OSError):
        for path in place.glob(f"{_prefix()}*"):
            _remove_if_stale(path)


def _remove_if_stale(path: Path) -> None:
    # No lock yet: its driver is just making it.
    with suppress(OSError):
        if os.lstat(path).st_uid != os.geteuid():
            return
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)


def _prefix() -> str:
    return f"scalops-{os.geteuid()}-"


def _place() -> Path:
    given = Path(tempfile.gettempdir())
    longest = len(os.fsencode(given)) + len(_prefix()) + len("4194304-12345678") + _ROOM
    return given if longest <= MOST_PATH else Path(_SYSTEM)
