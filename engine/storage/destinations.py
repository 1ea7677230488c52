"""Where tables are written: new files beside their destination, which take its place when all of
them are complete."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Protocol

from scalops.algebra.errors import ExecutionError
from scalops.engine.storage.filesystems import located
from scalops.engine.storage.hidden_names import HiddenName
from scalops.engine.storage.uploads import RemoteFile, RemoteFolder, filled_meanwhile

_HERE = -100  # AT_FDCWD: paths are those of this process
_EXCHANGE = 2  # RENAME_EXCHANGE


class Destination(Protocol):
    """A file or folder to be written as a whole; what was there stays until `commit`.

    Its methods raise OSError for what the system refuses.
    """

    @property
    def title(self) -> str:
        """For messages: its path or URI."""

    def open(self, name: str) -> BinaryIO:
        """A new file: in a folder the one of this path within, with its folders; else the file.

        Who opens it closes it; it is complete when it has been closed.
        """

    def commit(self) -> None:
        """Put what was written in place, all at once."""

    def abort(self) -> None:
        """Remove what was written. After `commit` there is nothing to remove."""


@contextmanager
def named(title: str) -> Iterator[None]:
    """Turn what the system refuses into an ExecutionError that says what cannot be written."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ExecutionError(f"{title} cannot be written: {reason}") from error


class _Synced:
    """A file that is on disk when it has been closed."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def close(self) -> None:
        if not self._stream.closed:
            with self._stream:
                self._stream.flush()
                os.fsync(self._stream.fileno())


class LocalFile:
    """A file of this machine's file system."""

    def __init__(self, target: str) -> None:
        self.title = target
        self._hidden = HiddenName(target)

    def open(self, name: str) -> BinaryIO:
        return _synced(self._hidden.make_file())

    def commit(self) -> None:
        temporary = self._hidden.path
        if os.path.exists(self.title):
            os.chmod(temporary, stat.S_IMODE(os.stat(self.title).st_mode))
        os.replace(temporary, self.title)
        _sync(os.path.dirname(self.title))
        self._hidden.free()
        self._hidden.remove_left()

    def abort(self) -> None:
        with suppress(OSError):
            os.unlink(self._hidden.path)
        self._hidden.free()


class LocalFolder:
    """A folder of this machine's file system.

    With `overwrite` one that is there already is replaced: at once where the system can exchange
    two names (Linux, on most file systems), else for a moment neither of the two is there. Without,
    only an empty one gives way, also if another has appeared meanwhile.
    """

    def __init__(self, target: str, overwrite: bool) -> None:
        self.title = target
        self._overwrite = overwrite
        self._hidden = HiddenName(target)
        self._folders: list[str] = []

    def open(self, name: str) -> BinaryIO:
        self._hidden.make_folder()
        path = os.path.join(self._hidden.path, name)
        folder = os.path.dirname(path)
        if folder not in self._folders[-1:]:
            os.makedirs(folder, exist_ok=True)
            self._folders.append(folder)
        return _synced(open(path, "xb"))

    def commit(self) -> None:
        self._hidden.make_folder()  # if no file was written
        temporary = self._hidden.path
        for folder in self._folders:
            _sync(folder)
        _sync(temporary)
        if os.path.isdir(self.title):
            os.chmod(temporary, stat.S_IMODE(os.stat(self.title).st_mode))
        try:
            os.rename(temporary, self.title)  # refused by the system unless it is empty
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not self._overwrite:
                raise filled_meanwhile(self.title) from error
            self._replace(temporary)
        _sync(os.path.dirname(self.title))
        self._hidden.free()
        self._hidden.remove_left()

    def _replace(self, temporary: str) -> None:
        if _exchanged(temporary, self.title):
            shutil.rmtree(temporary, ignore_errors=True)
            return
        old = f"{temporary}.old"
        os.rename(self.title, old)
        try:
            os.rename(temporary, self.title)
        except OSError:
            os.rename(old, self.title)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def abort(self) -> None:
        shutil.rmtree(self._hidden.path, ignore_errors=True)
        self._hidden.free()


def destination(path: object, filesystem: Any, is_folder: bool, overwrite: bool) -> Destination:
    """Where a table is to be written. Raises: PlanError and DataError as `located` does;
    ExecutionError where nothing can be written."""
    store, target = located(path, filesystem)
    if store is not None:
        return RemoteFolder(store, target, overwrite) if is_folder else RemoteFile(store, target)
    return local_folder(target, overwrite) if is_folder else local_file(target)


def local_file(target: str) -> LocalFile:
    """The file at a path. Raises: ExecutionError where nothing can be written."""
    target = os.path.realpath(target)
    mode = _mode(target)
    if mode is not None and stat.S_ISDIR(mode):
        raise ExecutionError(
            f"{target} is a folder, not a file",
            hint="give the file a name; a folder of files is written with max_rows_per_file= or"
            " partition_by=",
        )
    if mode is not None and not stat.S_ISREG(mode):
        raise ExecutionError(f"{target} is not a regular file")
    _check_parent(target)
    return LocalFile(target)


def local_folder(target: str, overwrite: bool) -> LocalFolder:
    """The folder at a path. Raises: ExecutionError where it is not empty and not to be replaced,
    or where nothing can be written."""
    target = os.path.realpath(target)
    mode = _mode(target)
    if mode is not None and not stat.S_ISDIR(mode):
        raise ExecutionError(f"{target} is a file, not a folder", hint="choose another name")
    _check_parent(target)
    with named(target):
        if os.path.isdir(target) and os.listdir(target) and not overwrite:
            raise ExecutionError(
                f"the folder {target} is not empty",
                hint="choose another, or replace all that is in it: overwrite=True",
            )
    return LocalFolder(target, overwrite)


def _mode(target: str) -> int | None:
    """What there is at a path, as `os.stat` says; None for nothing, and where it cannot be known.

    Raises: ExecutionError for links that lead nowhere.
    """
    with named(target), suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        return os.stat(target).st_mode
    return None


def _check_parent(target: str) -> None:
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise ExecutionError(f"{target} cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ExecutionError(f"{target} cannot be written: permission denied for {folder}")


def _synced(stream: BinaryIO) -> BinaryIO:
    return _Synced(stream)  # type: ignore[return-value]


def _sync(folder: str) -> None:
    with suppress(OSError):  # not every file system can sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _exchanged(one: str, other: str) -> bool:
    """Whether the system has exchanged two names, at once."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)
