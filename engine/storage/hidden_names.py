"""Hidden names beside a destination, and those that writers have left there who live no more.

What has such a name is locked (`flock`) for as long as its writer lives: the system lets go of the
lock however that ends. Where a file system has no locks nothing is taken for left.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

_TOKEN_BYTES = 6
_NAME_LENGTH = 200  # characters of the destination's: a file system takes 255 bytes


class HiddenName:
    """A new name in the folder of a destination, for one file or folder."""

    def __init__(self, target: str) -> None:
        self._folder, self._name = os.path.split(target)
        self._name = self._name[:_NAME_LENGTH]
        self.path = self._new()
        self._lock: int | None = None

    def _new(self) -> str:
        token = secrets.token_hex(_TOKEN_BYTES)
        return os.path.join(self._folder, f".{self._name}.{token}.tmp")

    def make_file(self) -> BinaryIO:
        """A file of that name, to be written; `path` is right from now on. Raises: OSError."""
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        lock = self._locked(lambda: os.open(self.path, flags, 0o666))
        return os.fdopen(os.dup(lock), "wb")

    def make_folder(self) -> None:
        """A folder of that name, if there is none yet; `path` is right from now on.

        Raises: OSError.
        """

        def made() -> int:
            os.mkdir(self.path)
            return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

        if self._lock is None:
            self._locked(made)

    def _locked(self, make: Callable[[], int]) -> int:
        while True:
            try:
                found = make()
            except FileNotFoundError:
                if not os.path.isdir(self._folder):
                    raise
            else:
                if _is_locked(found, self.path):
                    self._lock = found
                    return found
                os.close(found)
            # Before it was locked, another writer took it for one that is left.
            self.path = self._new()

    def free(self) -> None:
        """Nothing has the name any more."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def remove_left(self) -> None:
        """Remove what other writers of the same destination have left who live no more."""
        form = re.compile(rf"\.{re.escape(self._name)}\.[0-9a-f]{{{2 * _TOKEN_BYTES}}}\.tmp")
        with suppress(OSError):
            names = [n for n in os.listdir(self._folder) if form.fullmatch(n)]
            for name in names:
                _remove_unlocked(os.path.join(self._folder, name))


def _is_locked(descriptor: int, path: str) -> bool:
    """Lock what has just been made: whether it is its maker's, and still there."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # there are no locks: then nobody removes it
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _remove_unlocked(path: str) -> None:
    """Remove a file or folder that can be locked; what prevents that is no error."""
    with suppress(OSError):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.unlink(path)
        finally:
            os.close(descriptor)
