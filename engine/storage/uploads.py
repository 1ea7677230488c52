"""Destinations on filesystems that are not local: hidden names, moved when all is complete.

They fulfil `Destination`, but say themselves what is wrong: they raise ExecutionError.

Object stores show a file only when its upload is complete; but one that is given up may be
completed as it is when its stream goes. So the name that was asked for appears at the end.
"""

from __future__ import annotations

import io
import posixpath
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO, cast

from scalops.algebra.errors import DataError, ExecutionError
from scalops.engine.storage.filesystems import BUCKETS, Store, told, what_to_do

_WRITTEN_BYTES = 1 << 20  # at once


class RemoteFile:
    """A file: uploaded beside its destination, and moved there."""

    def __init__(self, store: Store, path: str) -> None:
        """Raises: ExecutionError for a folder, and where the filesystem does not answer."""
        self.title = store.shown(path)
        self._uploads, self._path = _Uploads(store, self.title), path
        self._temporary = _beside(path)
        if self._uploads.is_folder(path):
            raise ExecutionError(
                f"{self.title} is a folder, not a file",
                hint="give the file a name; a folder of files is written with"
                " max_rows_per_file= or partition_by=",
            )

    def open(self, name: str) -> BinaryIO:
        return self._uploads.open(self._temporary)

    def commit(self) -> None:
        self._uploads.move(self._temporary, self._path)

    def abort(self) -> None:
        self._uploads.abort()


class RemoteFolder:
    """A folder of files, which are uploaded to a hidden folder and moved one after the other.

    Each is whole whenever it is seen; what was in the folder goes when all of them are there.
    """

    def __init__(self, store: Store, path: str, overwrite: bool) -> None:
        """Raises: ExecutionError for a file, and for a folder that is not to be replaced."""
        self.title = store.shown(path)
        self._uploads, self._path = _Uploads(store, self.title), path
        self._overwrite = overwrite
        self._temporary = _beside(path)
        self._names: list[str] = []
        if self._uploads.is_file(path):
            raise ExecutionError(
                f"{self.title} is a file, not a folder", hint="choose another name"
            )
        if self._uploads.files_of(path) and not overwrite:
            raise ExecutionError(
                f"the folder {self.title} is not empty",
                hint="choose another, or replace all that is in it: overwrite=True",
            )

    def open(self, name: str) -> BinaryIO:
        self._names.append(name)
        return self._uploads.open(posixpath.join(self._temporary, name))

    def commit(self) -> None:
        uploads = self._uploads
        old = uploads.files_of(self._path)
        if old and not self._overwrite:
            raise filled_meanwhile(self.title)
        new = [posixpath.join(self._path, name) for name in self._names]
        uploads.make_folder(self._path)
        for name, path in zip(self._names, new, strict=True):
            uploads.move(posixpath.join(self._temporary, name), path)
        written = {path.strip("/") for path in new}
        gone = [path for path in old if path.strip("/") not in written]
        for path in gone:
            uploads.delete(path)
        # Folders that have become empty, each after those within.
        for folder in sorted({posixpath.dirname(path) for path in gone}, key=len, reverse=True):
            if not any(path.startswith(f"{folder.strip('/')}/") for path in written):
                uploads.remove_folder(folder)
        uploads.remove_folder(self._temporary)

    def abort(self) -> None:
        self._uploads.abort()
        self._uploads.remove_folder(self._temporary)


def filled_meanwhile(title: str) -> ExecutionError:
    """The error of a folder that another has put files into while the plan ran."""
    return ExecutionError(
        f"the folder {title} was filled by another while the plan ran; it is left as it is",
        hint="choose another, or replace all that is in it: overwrite=True",
    )


def _beside(path: str) -> str:
    """A new hidden name in the same folder."""
    folder, name = posixpath.split(path.rstrip("/"))
    return posixpath.join(folder, f".{name[:200]}.{secrets.token_hex(6)}.tmp")


class _Uploads:
    """What is written in one store; errors name the destination."""

    def __init__(self, store: Store, title: str) -> None:
        self._store, self._title = store, title
        self._filesystem = store.filesystem
        self._has_folders = self._filesystem.type_name not in BUCKETS
        self._open: dict[str, _Output] = {}  # and what has not been moved
        self._folders: set[str] = set()

    def open(self, path: str) -> BinaryIO:
        """A new file. When it has been closed, all of it has arrived."""
        self.make_folder(posixpath.dirname(path))
        stream = self._asked(lambda: self._filesystem.open_output_stream(path, compression=None))
        raw = self._open[path] = _Output(stream, lambda size: self._check(path, size), self._failed)
        return cast(BinaryIO, io.BufferedWriter(raw, _WRITTEN_BYTES))

    def _check(self, path: str, size: int) -> None:
        found = self._asked(lambda: self._store.info(path)).size
        if found != size:
            raise ExecutionError(
                f"{self._title} cannot be written: {found} of {size} bytes have arrived"
            )

    def move(self, path: str, target: str) -> None:
        """Give a complete file its name; what has that name goes."""
        if self._filesystem.type_name == "hdfs" and self.is_file(target):
            self.delete(target)  # it renames over nothing
        self.make_folder(posixpath.dirname(target))
        self._asked(lambda: self._filesystem.move(path, target))
        del self._open[path]

    def abort(self) -> None:
        """Remove what was opened here and not moved; what prevents that is no error."""
        for path, raw in self._open.items():
            raw.give_up()
            with suppress(Exception):  # each client of a store has errors of its own
                self._filesystem.delete_file(path)
        self._open.clear()

    def delete(self, path: str) -> None:
        """Remove a file."""
        self._asked(lambda: self._filesystem.delete_file(path))

    def make_folder(self, path: str) -> None:
        """Make a folder and those above, where there are such; object stores have names alone."""
        if self._has_folders and path.strip("/") and path not in self._folders:
            self._asked(lambda: self._filesystem.create_dir(path, recursive=True))
            self._folders.add(path)

    def remove_folder(self, path: str) -> None:
        """Remove a folder that nobody needs, if it is there."""
        with suppress(Exception):  # each client of a store has errors of its own
            self._filesystem.delete_dir(path)

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder now."""
        from pyarrow.fs import FileType

        return bool(self._asked(lambda: self._store.info(path)).type == FileType.Directory)

    def is_file(self, path: str) -> bool:
        """Whether there is a file now."""
        from pyarrow.fs import FileType

        return bool(self._asked(lambda: self._store.info(path)).type == FileType.File)

    def files_of(self, folder: str) -> list[str]:
        """The files in a folder and its subfolders, if it is there."""
        from pyarrow.fs import FileType

        if not self.is_folder(folder):
            return []
        infos = self._asked(lambda: self._store.listed(folder, recursive=True))
        return [info.path for info in infos if info.type != FileType.Directory]

    def _asked(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except DataError as error:  # of a Store, which says that it cannot be read
            reason = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise self._failed(reason) from error
        except Exception as error:  # each client of a store has errors of its own
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> ExecutionError:
        return ExecutionError(
            f"{self._title} cannot be written: {told(error)}", hint=what_to_do(error)
        )


class _Output(io.RawIOBase):
    """A stream of Arrow's to write to; `check` gets the number of bytes when it is closed.

    Whatever the filesystem raises becomes what `failed` makes of it.
    """

    def __init__(
        self,
        stream: Any,
        check: Callable[[int], None],
        failed: Callable[[Exception], ExecutionError],
    ) -> None:
        super().__init__()
        self._stream, self._check, self._failed = stream, check, failed
        self._written = 0
        self._given_up = False

    def write(self, data: Any, /) -> int:
        """All of the bytes; nothing after `give_up`."""
        size = memoryview(data).nbytes
        if not self._given_up:
            try:
                self._stream.write(data)
            except Exception as error:  # each client of a store has errors of its own
                raise self._failed(error) from error
            self._written += size
        return size

    def writable(self) -> bool:
        return True

    def give_up(self) -> None:
        """Let the stream go; what is still buffered goes nowhere."""
        self._given_up = True
        with suppress(Exception):  # each client of a store has errors of its own
            self.close()

    def close(self) -> None:
        """Close the stream, which completes the upload."""
        if self.closed:
            return
        super().close()
        try:
            self._stream.close()
        except Exception as error:  # each client of a store has errors of its own
            raise self._failed(error) from error
        if not self._given_up:
            self._check(self._written)
