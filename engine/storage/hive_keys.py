"""Keys and values that the names of folders hold, as Hive and Spark write them: year=2024/x.csv."""

from __future__ import annotations

import glob
from pathlib import PurePath
from urllib.parse import unquote

Keys = tuple[tuple[str, str], ...]


def keys_of(path: str, above: str = "") -> Keys:
    """The pairs of key and value in the folders of a path, decoded; not those of `above`.

    >>> keys_of("/sales/year=2024/city=S%C3%A3o%20Paulo/a.csv", "/sales")
    (('year', '2024'), ('city', 'São Paulo'))
    """
    folders = PurePath(path).parts[len(PurePath(above).parts) : -1]
    pairs = (part.split("=", 1) for part in folders if part.find("=") > 0)
    return tuple((unquote(key), unquote(value)) for key, value in pairs)


def fixed_part(path: str) -> str:
    """The folders of a path or pattern before the first that a pattern stands for.

    >>> fixed_part("/sales/year=*/city=Rome/*.csv")
    '/sales'
    """
    parts = PurePath(path).parts
    magic = (i for i, part in enumerate(parts) if glob.has_magic(part))
    return str(PurePath(*parts[: next(magic, len(parts))]))
