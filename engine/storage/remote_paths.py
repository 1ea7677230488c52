"""Folders and patterns on filesystems that are not local, by the rules of local ones."""

from __future__ import annotations

import glob
import hashlib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from scalops.algebra.errors import DataError
from scalops.engine.storage.filesystems import Store

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo

_HIDDEN = (".", "_")
_SAMPLES, _SAMPLE_BYTES = 16, 4_096


def expand(store: Store, path: str, suffixes: tuple[str, ...]) -> list[FileInfo]:
    """The files that a path, folder or pattern means. Raises: DataError where there is none."""
    whole = store.info(path)
    if _is_file(whole):
        return [whole]
    if _is_folder(whole):
        return _in_folder(store, path, suffixes)
    if not glob.has_magic(path):
        raise DataError(f"no file {store.shown(path)}", hint="check the path")
    matches = _matching(store, path)
    if not matches:
        raise DataError(
            f"no file matches {store.shown(path)}", hint="check the pattern and the folder"
        )
    found = []
    for match in matches:
        if not _is_folder(match):
            found.append(match)
        elif "**" not in path:  # which names the files of subfolders itself
            found += _in_folder(store, match.path, suffixes)
    return found


def _in_folder(store: Store, folder: str, suffixes: tuple[str, ...]) -> list[FileInfo]:
    """Files of a folder and its subfolders, sorted; names of "." and "_" are passed over."""
    found = []
    for info in store.listed(folder, recursive=True):
        parts = _parts(info, folder)
        if not any(name.startswith(_HIDDEN) for name in parts) and not _is_folder(info):
            found.append((parts, info))
    chosen = [(parts, info) for parts, info in found if parts[-1].lower().endswith(suffixes)]
    if not chosen:
        raise DataError(
            f"the folder {store.shown(folder)} has no file that ends in {' or '.join(suffixes)}",
            hint="name the files by a pattern",
        )
    return [info for _, info in sorted(chosen, key=lambda pair: pair[0])]


def _matching(store: Store, pattern: str) -> list[FileInfo]:
    """What a pattern matches, sorted by path.

    Names that begin with "_" are passed over, unless a pattern or name is written so.
    """
    names = tuple(pattern.split("/"))
    first = next(i for i, name in enumerate(names) if glob.has_magic(name))
    folder, rest = "/".join(names[:first]) or ("/" if first else ""), names[first:]
    any_hidden = any(name.startswith("_") and glob.has_magic(name) for name in names)
    found = []
    for info in store.listed(folder, recursive=len(rest) > 1 or "**" in rest):
        parts = _parts(info, folder)
        passed_over = not any_hidden and any(
            name.startswith("_") and name not in names for name in parts
        )
        if not passed_over and _fits(parts, rest):
            found.append(info)
    return sorted(found, key=lambda info: info.path)


def _fits(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """As `glob` has it: "**" is any number of folders, no "*" is a "." in front.

    >>> _fits(("2024", "a.csv"), ("**", "*.csv")), _fits((".git", "a.csv"), ("**", "*.csv"))
    (True, False)
    """
    if not pattern or not parts:
        return not pattern and not parts
    own, rest = pattern[0], pattern[1:]
    if own != "**":
        hidden = parts[0].startswith(".") and not own.startswith(".")
        return not hidden and fnmatchcase(parts[0], own) and _fits(parts[1:], rest)
    plain = next((i for i, n in enumerate(parts) if n.startswith(".")), len(parts))
    if not rest:
        return plain == len(parts)
    return any(_fits(parts[i:], rest) for i in range(plain + 1))


def _parts(info: FileInfo, folder: str) -> tuple[str, ...]:
    """The names that lead from a folder to what is in it."""
    path, base = info.path.strip("/"), folder.strip("/")
    return tuple((path[len(base) :] if base else path).strip("/").split("/"))


def _is_file(info: FileInfo) -> bool:
    from pyarrow.fs import FileType

    return bool(info.type == FileType.File)


def _is_folder(info: FileInfo) -> bool:
    from pyarrow.fs import FileType

    return bool(info.type == FileType.Directory)


def sample_digest(store: Store, info: FileInfo) -> str:
    """A digest of up to 64 KiB at fixed strides, from a file's first byte to the last."""
    digest = hashlib.blake2b(digest_size=16)
    last = max(0, info.size - _SAMPLE_BYTES)
    with store.open_bytes(info.path) as stream:
        for place in range(_SAMPLES):
            stream.seek(last * place // (_SAMPLES - 1))
            digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()
