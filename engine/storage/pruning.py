"""Which files and row groups a filter leaves unread, as folders' names and footers tell.

Sound for any data: what is left out holds no record for which all conditions are true. Statistics
do not count NaN, and bounds of strings may be cut: both only ever make an interval too wide, and
`!=` is not decided for floats. A comparison is made by NumPy in the column's type, as the filter
makes it, so that integers beyond 2^53 meet floats in both in the same way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from scalops.algebra.conditions import Condition
from scalops.algebra.dtypes import ArrayType
from scalops.engine.blocks import Array
from scalops.engine.storage.hive import HiveColumns, HiveParser, HiveRows
from scalops.engine.storage.ipc_format import IpcContents
from scalops.engine.storage.parquet_footers import Extent
from scalops.engine.storage.parquet_format import ParquetContents
from scalops.engine.storage.text_contents import TextContents

if TYPE_CHECKING:
    from scalops.engine.storage.file_source import FileSource


@dataclass(frozen=True)
class Pruning:
    """What was left out of a source: `share` of its bytes is left, `text` says it to readers."""

    conditions: tuple[Condition, ...]
    text: str
    share: float

    @property
    def digest(self) -> str:
        """Of the conditions, which with the files determine what is left."""
        return hashlib.blake2b(repr(self.conditions).encode(), digest_size=16).hexdigest()


def pruned(source: FileSource, conditions: Sequence[Condition]) -> FileSource | None:
    """The source without what no record of which can pass; None where that is nothing.

    Raises: DataError where a footer has to be read again and cannot.
    """
    known = () if source.pruning is None else source.pruning.conditions
    kinds = source.contents.schema.types
    asked = [c for c in conditions if c not in known and _is_simple(kinds.get(c.column))]
    if not asked:
        return None
    contents: Any = source.contents
    hive, inner = _parts(contents)
    files, useful = _files_kept(hive, asked, len(source.files), kinds)
    groups: list[int] | None = None
    if isinstance(inner, ParquetContents):
        groups, found = _groups_kept(inner, files, asked, kinds)
        useful.update(found)
    if not useful:
        return None
    if groups is not None:
        files = np.isin(np.arange(len(files)), [inner.group_files[i] for i in groups])
    used = tuple(c for c in asked if c in useful)
    kept = _kept_contents(contents, inner, files, groups)
    pruning = Pruning((*known, *used), "", _share(source, inner, files, groups))
    counts = [f"{int(files.sum())} of {len(files)} files"] if len(files) > 1 else []
    if groups is not None:
        counts.append(f"{len(groups)} of {len(inner.groups)} row groups")
    why = " and ".join(c.text for c in used)
    earlier = "" if source.pruned_text is None else f"; before that {source.pruned_text}"
    text = f"reads {', '.join(counts)}: only there can {why} be true{earlier}"
    return replace(source, contents=kept, pruning=replace(pruning, text=text))


def _is_simple(kind: ArrayType | None) -> bool:
    """Whether metadata may tell something of a column of this type."""
    return kind is not None and not (kind.shape or kind.is_list or kind.is_sparse)


def _parts(contents: Any) -> tuple[HiveColumns | None, Any]:
    """The columns of the folders, and the contents of the files."""
    if isinstance(contents, HiveRows):
        return contents.hive, contents.contents
    if isinstance(contents, TextContents) and isinstance(contents.parser, HiveParser):
        return contents.parser.hive, contents
    return None, contents


def _files_kept(
    hive: HiveColumns | None, asked: Sequence[Condition], count: int, kinds: dict[str, ArrayType]
) -> tuple[Array, set[Condition]]:
    """Which files may hold a record that passes, and the conditions that some do not."""
    kept = np.ones(count, bool)
    useful = set()
    for condition in asked if hive is not None else ():
        if hive is None or condition.column not in hive.schema:
            continue
        texts = hive.texts[condition.column]
        values, valid = hive.values[condition.column]
        told: dict[str | None, bool] = {}
        for i, text in enumerate(texts):
            if text not in told:
                known = valid is None or bool(valid[i])
                value = values[i].as_py() if isinstance(values, pa.Array) else values[i]
                one = Extent(1, 0, value, value) if known else Extent(1, 1)
                told[text] = may_hold(condition, kinds[condition.column], one)
        own = np.array([told[text] for text in texts])
        if not own[kept].all():
            useful.add(condition)
        kept &= own
    return kept, useful


def _groups_kept(
    contents: ParquetContents,
    files: Array,
    asked: Sequence[Condition],
    kinds: dict[str, ArrayType],
) -> tuple[list[int], set[Condition]]:
    """The numbers of the row groups that may hold a record that passes, and what left some out."""
    kept = [i for i, of in enumerate(contents.group_files) if files[of]]
    useful = set()
    for condition in asked:
        extents = contents.extents(condition.column, kinds[condition.column], kept)
        own = [
            i
            for i, extent in zip(kept, extents, strict=True)
            if may_hold(condition, kinds[condition.column], extent)
        ]
        if len(own) < len(kept):
            useful.add(condition)
        kept = own
    return kept, useful


def _kept_contents(contents: Any, inner: Any, files: Array, groups: list[int] | None) -> Any:
    if isinstance(contents, TextContents):
        left = {int(i) for i in np.flatnonzero(files)}
        before = contents.kept
        return replace(contents, kept=frozenset(left if before is None else left & before))
    if groups is not None:
        made: Any = inner.only(groups)
    else:
        assert isinstance(inner, IpcContents)
        made = inner.only(files.tolist())
    return replace(contents, contents=made) if isinstance(contents, HiveRows) else made


def _share(source: FileSource, inner: Any, files: Array, groups: list[int] | None) -> float:
    """How much of the files' bytes is left, about."""
    sizes = np.array([file.size for file in source.files], float)
    before = 1.0 if source.pruning is None else source.pruning.share
    if groups is not None:
        rows = np.array([g.stop - g.start for g in inner.groups], float)
        return before * float(rows[groups].sum() / max(1.0, rows.sum()))
    return min(before, float(sizes[files].sum() / max(1.0, sizes.sum())))


def may_hold(condition: Condition, kind: ArrayType, extent: Extent) -> bool:
    """Whether a column of such an extent may hold a value that passes; True where it is open."""
    test, nulls = condition.test, extent.nulls
    if test == "is_null":
        return nulls is None or nulls > 0
    if nulls is not None and nulls >= extent.rows:
        return False  # a comparison with null is never true
    if test == "is_valid":
        return True
    low, high = extent.low, extent.high
    if low is None or high is None:
        return True
    try:
        return any(_passes(test, kind, low, high, value) for value in condition.values)
    except (TypeError, ValueError, OverflowError):  # NumPy cannot compare them
        return True


def _passes(test: str, kind: ArrayType, low: Any, high: Any, value: Any) -> bool:
    if kind.is_string:
        if not isinstance(value, str):
            return True
    elif isinstance(value, str) or not _comparable(kind, low, high, value):
        return True
    with np.errstate(all="ignore"):
        match test:
            case "less":
                return bool(low < value)
            case "less_equal":
                return bool(low <= value)
            case "greater":
                return bool(high > value)
            case "greater_equal":
                return bool(high >= value)
            case "equal" | "is_in":
                return bool(low <= value) and bool(high >= value)
            case "not_equal":
                # NaN, which no bound tells of, differs from everything.
                exact = kind.is_string or kind.numpy.kind in "biumM"
                return not (exact and bool(low == value) and bool(high == value))
    return True


def _comparable(kind: ArrayType, low: Any, high: Any, value: Any) -> bool:
    """Whether comparing keeps the order of all values between the bounds.

    Times of several units meet in the finer one, where those far away would overflow.
    """
    if kind.numpy.kind not in "mM":
        of = value.dtype.kind if isinstance(value, np.generic) else "f"
        return of in "biuf" and isinstance(value, (bool, int, float, np.generic))
    if not isinstance(value, np.generic) or value.dtype.kind != kind.numpy.kind:
        return False
    finer = np.promote_types(kind.numpy, value.dtype)
    # A time that overflows does not come back; NaT equals nothing.
    return all(bool(v.astype(finer).astype(v.dtype) == v) for v in (low, high, value))
