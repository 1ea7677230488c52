"""Lines `label index:value ...` to labels and compressed rows.

Text of the usual form is taken apart by NumPy and Arrow a few hundred KiB at a time, while it is
in the processor's cache; what they cannot take is parsed line by line, which also tells what is
wrong with a line. Both give the same numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from scalops.algebra.dtypes import FLOAT64
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Array, Block, concatenate
from scalops.engine.columns import SparseColumn
from scalops.engine.storage.bad_records import Unreadable
from scalops.engine.storage.files import File
from scalops.engine.storage.number_text import (
    cached_parts,
    cast_tokens,
    number_of,
    shown,
    token_texts,
)
from scalops.engine.storage.text_contents import lines_with_ends

LABEL, FEATURES = "y", "x"
_MOST_INDEX = 2**31 - 1

_TOKEN, _BLANK, _END, _COLON = range(4)
_KIND = np.full(256, _TOKEN, np.uint8)
_KIND[list(b" \t\r\v\f")] = _BLANK
_KIND[ord("\n")] = _END
_KIND[ord(":")] = _COLON
_SEPARATORS = b" \t\r\v\f\n:"

_COMMENT = re.compile(rb"#[^\n]*")
_QUERY = re.compile(rb"^([ \t]*[^\s:]+[ \t]+)qid:-?\d+(?=\s|$)", re.MULTILINE)
_AFTER_PLUS = np.frombuffer(b"0123456789.iInN", np.uint8)
_ODD_PLUS = re.compile(rb"\+(?![\d.iInN])")


@dataclass(frozen=True)
class LibsvmParser:
    """Indices count from `base`, 0 or 1; the vectors have `dimension` elements, as many as were
    `counted` in the last indices of all lines, or else as the user said."""

    files: tuple[File, ...]
    schema: Schema
    dimension: int
    base: int
    counted: bool

    def parse(self, file: int, data: bytes, columns: tuple[str, ...]) -> Block:
        """Labels and features of all lines that are not empty. Raises: Unreadable."""
        parts = [self._part(part, columns) for part in cached_parts(data)]
        chosen = Schema(tuple((name, self.schema[name]) for name in columns))
        return concatenate(parts, chosen)

    def rescue(self, file: int, line: bytes, columns: tuple[str, ...]) -> Block:
        """A record without label and features."""
        block = self._block(columns, np.zeros(1), np.zeros(2, np.int64), np.empty(0), np.empty(0))
        if LABEL in columns:
            block.valid[LABEL] = np.zeros(1, bool)
        return block

    def lines(self, data: bytes) -> list[bytes]:
        """The lines with their ends."""
        return lines_with_ends(data)

    def _part(self, data: bytes, columns: tuple[str, ...]) -> Block:
        plain = without_comments(data)
        rows = None if plain is None else tokens(plain)
        if rows is not None:
            labels, indptr, indices, values = rows
            indices -= self.base
            if self._fits(indptr, indices):
                return self._block(columns, labels, indptr, indices, values)
        return self._line_by_line(data, columns)

    def _fits(self, indptr: Array, indices: Array) -> bool:
        if not len(indices):
            return True
        if indices.min() < 0 or indices.max() >= self.dimension:
            return False
        rising = np.diff(indices) > 0
        starts = indptr[1:-1]
        rising[starts[(starts > 0) & (starts < len(indices))] - 1] = True
        return bool(rising.all())

    def _line_by_line(self, data: bytes, columns: tuple[str, ...]) -> Block:
        labels: list[float] = []
        indptr, indices, values = [0], [], []
        for line in lines_with_ends(data):
            record = self._record(line)
            if record is None:
                continue
            labels.append(record[0])
            indices += record[1]
            values += record[2]
            indptr.append(len(indices))
        return self._block(
            columns, np.array(labels), np.array(indptr), np.array(indices), np.array(values)
        )

    def _record(self, line: bytes) -> tuple[float, list[int], list[float]] | None:
        """One line's label, indices from 0 and values; None for an empty line.

        Raises: Unreadable.
        """
        words = line.partition(b"#")[0].split()
        if not words:
            return None
        label = number_of(words[0], f"label {shown(words[0])}")
        indices: list[int] = []
        values: list[float] = []
        for position, word in enumerate(words[1:]):
            name, colon, text = word.partition(b":")
            if not colon:
                raise Unreadable(f": {shown(word)} is no index:value")
            if name == b"qid" and position == 0:
                if not re.fullmatch(rb"-?\d+", text):
                    raise Unreadable(f": {shown(word)} is no query number")
                continue
            indices.append(self._index(name, word, indices))
            values.append(number_of(text, f"value in {shown(word)}"))
        return label, indices, values

    def _index(self, name: bytes, word: bytes, before: list[int]) -> int:
        if not re.fullmatch(rb"[+-]?\d+", name):
            raise Unreadable(f": {shown(word)} has no number as its index")
        index = int(name) - self.base
        if index < 0:
            raise Unreadable(
                f": the index {int(name)} is less than {self.base}",
                None if self.base == 0 else "give zero_based=True if indices count from 0",
            )
        if index >= self.dimension:
            raise self._too_great(int(name))
        if before and index <= before[-1]:
            raise Unreadable(
                f": the index {int(name)} comes after {before[-1] + self.base}",
                "indices must ascend and occur once in a line",
            )
        return index

    def _too_great(self, index: int) -> Unreadable:
        if not self.counted:
            return Unreadable(
                f": the index {index} is greater than n_features allows",
                "give a greater n_features, or none, to have them counted",
            )
        if index > _MOST_INDEX:
            return Unreadable(f": the index {index} is greater than 2**31 - 1")
        return Unreadable(
            f": the index {index} is followed by a lesser one",
            "indices must ascend and occur once in a line",
        )

    def _block(
        self,
        columns: tuple[str, ...],
        labels: Array,
        indptr: Array,
        indices: Array,
        values: Array,
    ) -> Block:
        found = {
            LABEL: labels.astype(FLOAT64.numpy, copy=False),
            FEATURES: SparseColumn(
                indptr.astype(np.int64, copy=False),
                indices.astype(np.int32, copy=False),
                values.astype(np.float64, copy=False),
                self.dimension,
            ),
        }
        return Block(len(labels), {name: found[name] for name in columns})


def without_comments(data: bytes) -> bytes | bytearray | None:
    """The text without comments, query numbers and leading plus signs; None for odd ones."""
    if b"#" in data:
        data = _COMMENT.sub(b"", data)
    if b"qid:" in data:
        data = _QUERY.sub(rb"\1", data)
    if b":+" in data:
        if _ODD_PLUS.search(data):
            return None
        data = data.replace(b":+", b":")
    return _without_plus(data) if b"+" in data else data


def _without_plus(data: bytes) -> bytearray | None:
    """The text with a blank for each plus sign that leads a number; None for odd ones."""
    plain = bytearray(data)
    text = np.frombuffer(plain, np.uint8)
    plus = np.flatnonzero(text == ord("+"))
    before = np.where(plus > 0, text[plus - 1], ord("\n"))
    leading = plus[_KIND[before] != _TOKEN]
    after = text[np.minimum(leading + 1, len(text) - 1)]
    if not np.isin(after, _AFTER_PLUS).all():
        return None
    text[leading] = ord(" ")
    return plain


def tokens(data: bytes | bytearray) -> tuple[Array, Array, Array, Array] | None:
    """Labels, indptr, indices as they are written, values; None if a line has another form."""
    if not data.endswith(b"\n"):
        data = data + b"\n"
    kinds = np.take(_KIND, np.frombuffer(data, np.uint8))
    at = np.flatnonzero(kinds != _TOKEN)
    # Token i is what lies before separator i; between two separators it may be empty.
    kind = kinds[at]
    lengths = np.diff(at, prepend=-1) - 1
    full = lengths > 0
    index = kind == _COLON
    value = np.empty_like(index)
    value[0], value[1:] = False, index[:-1]
    all_full = bool(full.all())
    if not all_full and not bool(full[index | value].all()):
        return None
    if bool((index & value).any()):
        return None
    label = ~(index | value) if all_full else full & ~(index | value)
    ends = np.flatnonzero(kind == _END)
    stored = np.cumsum(index)  # index tokens up to and with this one
    labelled = np.cumsum(label)[ends]
    has_label = np.diff(labelled, prepend=0)
    until = stored[ends]
    empty = has_label == 0
    if int(has_label.max()) > 1 or bool(np.diff(until, prepend=0)[empty].any()):
        return None
    indptr = np.concatenate([np.zeros(1, np.int64), until[~empty]])
    if not np.array_equal(stored[label], indptr[:-1]):  # a label that is not first in its line
        return None
    texts = token_texts(data, lengths if all_full else lengths[full], _SEPARATORS)
    if not all_full:
        index, value, label = index[full], value[full], label[full]
    try:
        labels = cast_tokens(texts, label, pa.float64())
        indices = cast_tokens(texts, index, pa.int32())
        values = cast_tokens(texts, value, pa.float64())
    except pa.ArrowInvalid:
        return None
    return labels, indptr, indices, values


def greatest_index(data: bytes) -> int:
    """The greatest number before the last colon of a line; -1 where there is none.

    In a line that can be read these are its greatest indices, because they ascend.
    """
    if b"#" in data:
        data = _COMMENT.sub(b"", data)
    if b"qid:" in data:
        data = _QUERY.sub(rb"\1", data)
    text = np.frombuffer(data, np.uint8)
    colons = np.flatnonzero(text == ord(":"))
    if not len(colons):
        return -1
    ends = np.append(np.flatnonzero(text == ord("\n")), len(text))
    # A line without a colon finds the one of a line before it, which does no harm.
    last = np.unique(colons[np.maximum(np.searchsorted(colons, ends) - 1, 0)])
    greatest = np.zeros(len(last), np.int64)
    power = 1
    going = np.ones(len(last), bool)
    for back in range(1, 11):  # digits, from the last to the first
        place = last - back
        digit = text[np.maximum(place, 0)].astype(np.int64) - ord("0")
        going &= (place >= 0) & (digit >= 0) & (digit <= 9)
        if not going.any():
            break
        greatest += np.where(going, digit * power, 0)
        power *= 10
    found = greatest[greatest <= _MOST_INDEX]
    return int(found.max()) if len(found) else -1
