"""Folders and patterns on filesystems that are not local, by the rules of local ones."""

from __future__ import annotations

import fnmatch
import glob
import posixpath
import re
from typing import TYPE_CHECKING

from scalops.algebra.errors import DataError
from scalops.engine.storage.filesystems import Store

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo

_HIDDEN = (".", "_")


def below(store: Store, folder: str, suffixes: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The files in a folder and its subfolders that end in one of `suffixes`, sorted, each as the
    names that lead to it. Names that begin with "." or "_" are passed over.
    """
    found = []
    for info in store.listed(folder, recursive=True):
        parts = _parts(info, folder)
        if not any(name.startswith(_HIDDEN) for name in parts) and _is_file(info):
            found.append(parts)
    return sorted(parts for parts in found if parts[-1].lower().endswith(suffixes))


def joined(folder: str, parts: tuple[str, ...]) -> str:
    """The path of a file in a folder."""
    return "/".join((folder.rstrip("/"), *parts)) if folder else "/".join(parts)


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
        if _is_file(match):
            found.append(match)
        elif "**" not in path:  # which names the files of subfolders itself
            found += _in_folder(store, match.path, suffixes)
    return found


def _in_folder(store: Store, folder: str, suffixes: tuple[str, ...]) -> list[FileInfo]:
    paths = [joined(folder, parts) for parts in below(store, folder, suffixes)]
    if not paths:
        raise DataError(
            f"the folder {store.shown(folder)} has no file that ends in {' or '.join(suffixes)}",
            hint="name the files by a pattern",
        )
    return store.infos(paths)


def _matching(store: Store, pattern: str) -> list[FileInfo]:
    """What a pattern matches, sorted by path; as `glob` does, "*" matches no hidden name.

    Names that begin with "_" are passed over, unless a pattern or name is written so.
    """
    names = pattern.split("/")
    first = next(i for i, name in enumerate(names) if glob.has_magic(name))
    folder, rest = "/".join(names[:first]) or ("/" if first else ""), names[first:]
    any_hidden = any(name.startswith("_") and glob.has_magic(name) for name in names)
    deep = len(rest) > 1
    expression = re.compile(_expression(rest))
    found = []
    for info in store.listed(folder, recursive=deep):
        parts = _parts(info, folder)
        passed_over = not any_hidden and any(
            name.startswith("_") and name not in names for name in parts
        )
        if not passed_over and expression.fullmatch("/".join(parts)):
            found.append(info)
    return sorted(found, key=lambda info: info.path)


def _expression(names: list[str]) -> str:
    """The regular expression of a pattern's names, "**" being any number of folders."""
    made = []
    for i, name in enumerate(names):
        is_last = i == len(names) - 1
        if name == "**":
            made.append(r"[^./][^/]*(?:/[^./][^/]*)*" if is_last else r"(?:[^./][^/]*/)*")
            continue
        # A name's pattern matches nothing across "/", and no "." in front but its own.
        inner = re.sub(r"\\[zZ]$", "", fnmatch.translate(name))
        guard = "" if name.startswith(".") else r"(?!\.)"
        made.append(f"{guard}(?=[^/]*{'$' if is_last else '/'}){_within_a_name(inner)}")
        if not is_last:
            made.append("/")
    return "".join(made)


def _within_a_name(expression: str) -> str:
    """A translated pattern whose "any character" is none that parts names."""
    return expression.replace("(?s:.", "(?s:[^/]", 1) if False else expression


def _parts(info: FileInfo, folder: str) -> tuple[str, ...]:
    """The names that lead from a folder to what is in it."""
    path, base = info.path.strip("/"), folder.strip("/")
    return tuple(path[len(base) :].strip("/").split("/")) if base else tuple(path.split("/"))


def _is_file(info: FileInfo) -> bool:
    from pyarrow.fs import FileType

    return bool(info.type == FileType.File)


def _is_folder(info: FileInfo) -> bool:
    from pyarrow.fs import FileType

    return bool(info.type == FileType.Directory)
