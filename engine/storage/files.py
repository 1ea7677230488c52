"""Files on disk: found by path, list, pattern or folder, and read with errors that name them."""

from __future__ import annotations

import glob
import os
import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from scalops.algebra.errors import DataError, PlanError, SchemaError
from scalops.algebra.schema import Schema
from scalops.engine.storage.hive_keys import fixed_part, keys_of

PathLike = str | os.PathLike[str]
Paths = PathLike | Sequence[PathLike]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # two letters at least: not a drive


@dataclass(frozen=True)
class File:
    """A file as it was when the table was made; `size` in bytes, `mtime` in nanoseconds."""

    path: str
    size: int
    mtime: int
    keys: tuple[tuple[str, str], ...] = ()  # of folders named key=value, below what was given

    @classmethod
    def at(cls, path: str) -> File:
        """The file as it is now. Raises: DataError if there is none that can be read."""
        with reading(path):
            status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise DataError(f"{path} is a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is not a regular file", hint="copy its contents to one")
        return cls(path, status.st_size, status.st_mtime_ns)

    def check_unchanged(self) -> None:
        """Raise DataError if the file is gone or its size or time of change is another."""
        try:
            now = os.stat(self.path)
        except OSError as error:
            raise DataError(
                f"{self.path} is gone since the table was made ({error.strerror})",
                hint="make a new table",
            ) from error
        if now.st_size != self.size or now.st_mtime_ns != self.mtime:
            size = (
                f": {self.size} bytes then, {now.st_size} now" if now.st_size != self.size else ""
            )
            raise DataError(
                f"{self.path} changed after the table was made{size}", hint="make a new table"
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
        raise DataError(f"{path} {_what_is_wrong(error, form)}") from error


def _what_is_wrong(error: BaseException, form: str) -> str:
    match error:
        case FileNotFoundError():
            return "does not exist"
        case PermissionError():
            return "may not be read: permission denied"
        case IsADirectoryError():
            return "is a folder, not a file"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"cannot be read{f' as {form}' if form else ''}: {lines[0]}"


def find_files(paths: Paths, suffixes: tuple[str, ...]) -> tuple[tuple[File, ...], str]:
    """The files that `paths` means, in order, and a short title.

    A list keeps its order; a pattern or folder gives its files sorted by path. A folder gives
    the files with one of `suffixes`, also of its subfolders. Names that begin with "." or "_"
    are passed over, unless written out.

    Raises: DataError where nothing is found; PlanError for other than local files.
    """
    given: list[object]
    if isinstance(paths, (str, bytes, os.PathLike)) or not isinstance(paths, Sequence):
        given = [paths]
    else:
        given = list(paths)
    if not given:
        raise PlanError("an empty list of paths: no file to read")
    found: list[File] = []
    for path in given:
        local = local_path(path)
        above = os.path.abspath(local if os.path.exists(local) else fixed_part(local))
        for match in map(os.path.abspath, _expand(local, suffixes)):
            found.append(replace(File.at(match), keys=keys_of(match, above)))
    return tuple(found), _title(given, [file.path for file in found])


def _title(given: list[object], found: list[str]) -> str:
    first = Path(str(given[0]) if len(given) == 1 else found[0]).name or str(given[0])
    return first if len(given) == 1 else f"{first} and {len(given) - 1} more"


def local_path(path: object, doing: str = "reading from") -> str:
    """A path of this machine's file system. Raises: PlanError for any other."""
    if not isinstance(path, (str, os.PathLike)):
        raise PlanError(f"a path is a string or a Path, found {path!r}")
    text = os.fspath(path)
    if not isinstance(text, str):
        raise PlanError(f"a path is a string or a Path, found {path!r}", hint="use os.fsdecode")
    try:
        impossible = b"\0" in os.fsencode(text)
    except UnicodeEncodeError:
        impossible = True
    if impossible:
        raise PlanError(f"{text!r} can be no path: it has a character that no name may have")
    if not _SCHEME.match(text):
        return os.path.expanduser(text)
    parts = urlsplit(text)
    if parts.scheme.lower() != "file" or parts.netloc not in ("", "localhost"):
        raise PlanError(
            f"{text}: {doing} {parts.scheme}:// is not supported yet",
            hint="use a local folder, and copy",
        )
    return unquote(parts.path)


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
        for match in sorted(glob.glob(path, recursive=True))
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
    return found


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
