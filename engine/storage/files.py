"""Files: found by path, list, pattern or folder, opened, and read with errors that name them."""

from __future__ import annotations

import glob
import io
import os
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import pyarrow as pa

from scalops.algebra.errors import DataError, PlanError, SchemaError
from scalops.algebra.schema import Schema
from scalops.engine.storage.filesystems import Store, located, told, what_to_do
from scalops.engine.storage.hive_keys import fixed_part, keys_of
from scalops.engine.storage.remote_paths import expand, sample_digest

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo

PathLike = str | os.PathLike[str]
Paths = PathLike | Sequence[PathLike]

_READ_BYTES = 1 << 18  # at once, of a file that is not local and is read line by line


@dataclass(frozen=True)
class File:
    """A file as it was when the table was made; `size` in bytes, `mtime` in nanoseconds.

    One that is not local lies in `store` at `within`; `path` is then its URI, without secrets.
    `sample` is a digest of some of its bytes, where the filesystem tells no time.
    """

    path: str
    size: int
    mtime: int
    keys: tuple[tuple[str, str], ...] = ()  # of folders named key=value, below what was given
    store: Store | None = None
    within: str = ""
    sample: str = ""

    @classmethod
    def at(cls, path: str) -> File:
        """The file as it is now. Raises: DataError if there is none that can be read."""
        with reading(path):
            status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise DataError(f"{path} is a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is not a regular file", hint="copy its contents to one")
        if status.st_size == 0:
            _check_empty(path)
        return cls(path, status.st_size, status.st_mtime_ns)

    @classmethod
    def remote(cls, store: Store, info: FileInfo) -> File:
        """A file of another filesystem, as that describes it. Raises: DataError."""
        from pyarrow.fs import FileType

        path = store.name_of(info.path)
        if info.type != FileType.File:
            raise DataError(f"{path} is not a regular file", hint="copy its contents to one")
        if info.size is None:
            raise DataError(
                f"the size of {path} is not told by its filesystem", hint="copy it, and read that"
            )
        time = store.time(info)
        sample = ""
        if time is None:
            with reading(path):
                sample = sample_digest(store, info)
        return cls(path, info.size, time or 0, (), store, info.path, sample)

    def open(self) -> BinaryIO:
        """The bytes as a binary stream of Python's, to read from anywhere.

        Raises: OSError and Arrow's errors, which `reading` takes.
        """
        if self.store is None:
            return open(self.path, "rb")
        stream = io.BufferedReader(self.store.open_bytes(self.within), _READ_BYTES)
        return cast(BinaryIO, stream)

    def open_input(self) -> pa.NativeFile:
        """The bytes as a stream of Arrow's, to read from anywhere; raises as `open` does."""
        return pa.OSFile(self.path) if self.store is None else self.store.open_input(self.within)

    def check_unchanged(self, sampled: bool = True) -> None:
        """Raise DataError if the file is gone or its size or time of change is another.

        Where a filesystem tells no time the sample is compared, with `sampled`; else the size
        alone.
        """
        if self.store is not None:
            self._compare(self.store, self.store.info(self.within), sampled)
            return
        try:
            now = os.stat(self.path)
        except OSError as error:
            raise DataError(
                f"{self.path} is gone since the table was made ({error.strerror})",
                hint="make a new table",
            ) from error
        if now.st_size != self.size or now.st_mtime_ns != self.mtime:
            raise self._changed(now.st_size)

    def check_local(self) -> None:
        """As `check_unchanged`, of a local file: asking others each time would take too long."""
        if self.store is None:
            self.check_unchanged()

    def check_read(self) -> None:
        """As `check_unchanged`, of what has just been read: one call of a store, no sample."""
        self.check_unchanged(sampled=False)

    def _compare(self, store: Store, info: FileInfo, sampled: bool = True) -> None:
        """Raise DataError unless what a filesystem tells now is what it told then."""
        from pyarrow.fs import FileType

        if info.type == FileType.NotFound:
            raise DataError(
                f"{self.path} is gone since the table was made", hint="make a new table"
            )
        if info.type != FileType.File or info.size != self.size:
            raise self._changed(info.size)
        if self.sample and not sampled:
            return
        now = File.remote(store, info)
        if (now.mtime, now.sample) != (self.mtime, self.sample):
            raise self._changed(self.size)

    def _changed(self, size: int | None) -> DataError:
        other = size is not None and size != self.size
        sizes = f": {self.size} bytes then, {size} now" if other else ""
        return DataError(
            f"{self.path} changed after the table was made{sizes}", hint="make a new table"
        )


def check_unchanged(files: Sequence[File]) -> None:
    """Raise DataError, naming the file, if one is gone or changed; stores are asked once each."""
    stored: dict[Store, list[File]] = {}
    for file in files:
        if file.store is None:
            file.check_unchanged()
        else:
            stored.setdefault(file.store, []).append(file)
    for store, theirs in stored.items():
        infos = store.infos([file.within for file in theirs])
        for file, info in zip(theirs, infos, strict=True):
            file._compare(store, info)


def _check_empty(path: str) -> None:
    """Raise DataError if a file of 0 bytes has some, as those that a system makes up have."""
    with reading(path), open(path, "rb") as stream:
        if stream.read(1):
            raise DataError(
                f"{path} is not a regular file on disk: it is told to have 0 bytes, and has more",
                hint="copy its contents to one",
            )


@contextmanager
def reading(path: str, form: str = "") -> Iterator[None]:
    """Turn what the system and Arrow raise while they read a file into a DataError.

    `form` is the file's format, for the reader of the message. Only around calls that read:
    errors of code that consumes what was read are not the file's.
    """
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, zlib.error, UnicodeError, OverflowError) as error:
        is_local = "://" not in path
        hint = None if is_local else what_to_do(error)
        raise DataError(f"{path} {_what_is_wrong(error, form, is_local)}", hint=hint) from error


def _what_is_wrong(error: BaseException, form: str, is_local: bool) -> str:
    match error:
        case FileNotFoundError():
            return "does not exist"
        case PermissionError():
            return "may not be read: permission denied"
        case IsADirectoryError():
            return "is a folder, not a file"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = lines[0] if is_local else told(error)
    return f"cannot be read{f' as {form}' if form else ''}: {reason}"


def find_files(
    paths: Paths, suffixes: tuple[str, ...], filesystem: Any = None
) -> tuple[tuple[File, ...], str]:
    """The files that `paths` means, in order, and a short title.

    A list keeps its order; a pattern or folder gives its files sorted by path. A folder gives
    the files with one of `suffixes`, also of its subfolders. Names that begin with "." or "_"
    are passed over, unless written out. Paths are URIs or local ones, or lie in `filesystem`.

    Raises: DataError where nothing is found, or a filesystem cannot be reached; PlanError as
    `located` does.
    """
    given: list[object]
    if isinstance(paths, (str, bytes, os.PathLike)) or not isinstance(paths, Sequence):
        given = [paths]
    else:
        given = list(paths)
    if not given:
        raise PlanError("an empty list of paths: no file to read")
    found: list[File] = []
    shown = ""
    for path in given:
        store, within = located(path, filesystem)
        if store is None:
            shown = within
            above = os.path.abspath(within if os.path.exists(within) else fixed_part(within))
            files = [File.at(os.path.abspath(match)) for match in _expand(within, suffixes)]
        else:
            shown = store.shown(within)
            infos = expand(store, within, suffixes)
            is_pattern = glob.has_magic(within) and infos[0].path.strip("/") != within.strip("/")
            above = fixed_part(shown) if is_pattern else shown
            files = [File.remote(store, info) for info in infos]
        found += [replace(file, keys=keys_of(file.path, above)) for file in files]
    return tuple(found), _title(len(given), shown, found[0].path)


def _title(count: int, shown: str, first: str) -> str:
    name = Path(shown if count == 1 else first).name or shown
    return name if count == 1 else f"{name} and {count - 1} more"


def _expand(path: str, suffixes: tuple[str, ...]) -> list[str]:
    if os.path.isdir(path):
        found = _in_folder(path, suffixes)
        if not found:
            raise DataError(
                f"the folder {os.path.abspath(path)} has no file that ends in "
                f"{' or '.join(suffixes)}",
                hint="name the files by a pattern",
            )
        return found
    if os.path.exists(path) or not glob.has_magic(path):
        if not os.path.lexists(path):
            raise DataError(f"no file {path!r}{_folder(path)}", hint="check the path")
        return [path]
    written = Path(path).parts
    any_hidden = any(part.startswith("_") and glob.has_magic(part) for part in written)
    matches = [
        match
        for match in sorted(_matching(path))
        if any_hidden
        or not any(part.startswith("_") and part not in written for part in Path(match).parts)
    ]
    if not matches:
        raise DataError(
            f"no file matches {path!r}{_folder(path)}", hint="check the pattern and the folder"
        )
    found = []
    for match in matches:
        if not os.path.isdir(match):
            found.append(match)
        elif "**" not in path:  # which names the files of subfolders itself
            found += _expand(match, suffixes)
    if not found:
        raise DataError(f"only folders match {path!r}{_folder(path)}", hint="name the files")
    return found


def _matching(pattern: str) -> set[str]:
    """What a pattern matches. "**" stands for folders, not for links to them, which may lead in
    a circle or to files that are found anyway."""
    parts = Path(pattern).parts
    if "**" not in parts:
        return set(glob.glob(pattern))
    at = parts.index("**")
    rest = os.path.join(*parts[at + 1 :]) if parts[at + 1 :] else "*"
    starts = glob.glob(os.path.join(*parts[:at])) if at else [""]
    found: set[str] = set()
    for start in starts:
        for folder, folders, _ in os.walk(start or "."):
            folders[:] = [name for name in folders if not name.startswith(".")]
            below = folder if start else os.path.relpath(folder).removeprefix(".")
            found |= _matching(os.path.join(glob.escape(below), rest))
    return _once(found)


def _once(paths: Iterable[str]) -> set[str]:
    """The paths, of those that lead to one name in one real folder the shortest alone."""
    folders: dict[str, str] = {}
    found: dict[tuple[str, str], str] = {}
    for path in sorted(paths, key=lambda path: (path.count(os.sep), path)):
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        found.setdefault((folders[folder], name), path)
    return set(found.values())


def _folder(path: str) -> str:
    """Where a relative path was looked for."""
    return "" if os.path.isabs(path) else f" in {os.getcwd()}"


def _in_folder(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    found: list[tuple[str, ...]] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        parts = Path(os.path.relpath(parent, folder)).parts
        found += [
            (*parts, name)
            for name in files
            if name.lower().endswith(suffixes) and not name.startswith((".", "_"))
        ]
    return [os.path.join(folder, *parts) for parts in sorted(found)]


def other_columns(first: File, expected: Schema, file: File, found: Schema) -> SchemaError:
    """The error of a file that has other columns than the first one."""
    lines = [
        f"{name!r} is {found.types.get(name, 'missing')} instead of "
        f"{expected.types.get(name, 'missing')}"
        for name in dict.fromkeys((*expected.names, *found.names))
        if expected.types.get(name) != found.types.get(name)
    ]
    return SchemaError(
        f"{file.path} has other columns than {first.path}: {', '.join(lines)}",
        hint="read files of one schema together",
    )
