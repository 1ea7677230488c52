"""Text in Vowpal Wabbit's format to labels, weights, tags and compressed rows.

Text of the usual form is taken apart by NumPy and Arrow a few hundred KiB at a time, while it is
in the processor's cache; what they cannot take is parsed line by line (`vw_lines.py`), which also
tells what is wrong with a line. Both give the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalops.algebra.schema import Schema
from scalops.engine.blocks import Array, Block, concatenate
from scalops.engine.columns import SparseColumn
from scalops.engine.storage.bad_records import Unreadable
from scalops.engine.storage.files import File
from scalops.engine.storage.number_text import cached_parts, shown, token_texts
from scalops.engine.storage.text_contents import lines_with_ends
from scalops.engine.storage.vw_hash import CONSTANT, hashes_of, numbers_of
from scalops.engine.storage.vw_lines import LineRecords, VwRecords, hashed_index

LABEL, WEIGHT, BASE, TAG, FEATURES = "y", "weight", "base", "tag", "x"

_TOKEN, _BLANK, _END, _COLON, _BAR, _CONTROL = range(6)
_KIND = np.full(256, _TOKEN, np.uint8)
_KIND[:32] = _CONTROL
_KIND[list(b" \t\r")] = _BLANK
_KIND[ord("\n")] = _END
_KIND[ord(":")] = _COLON
_KIND[ord("|")] = _BAR
_SEPARATORS = b" \t\r\n:|"
_LEADING_PLUS = r"^\+([0-9.iInN])"


@dataclass(frozen=True)
class VwParser:
    """Vectors of `dimension` elements. Features are hashed, unless they are `numbered`: then their
    names are their indices. `constant` adds Vowpal Wabbit's constant feature to each record."""

    files: tuple[File, ...]
    schema: Schema
    dimension: int
    numbered: bool
    constant: bool

    def parse(self, file: int, data: bytes, columns: tuple[str, ...]) -> Block:
        """The records of all lines that are not empty. Raises: Unreadable."""
        parts = [self._part(part, columns) for part in cached_parts(data)]
        chosen = Schema(tuple((name, self.schema[name]) for name in columns))
        return concatenate(parts, chosen)

    def rescue(self, file: int, line: bytes, columns: tuple[str, ...]) -> Block:
        """A record without features, all else null."""
        nothing = LineRecords(self._index_of)
        nothing.add(b"|")
        block = self._block(nothing.records(), columns)
        for name in columns:
            if name == TAG:
                block.columns[TAG] = pa.nulls(1, pa.string())
            if name != FEATURES:
                block.valid[name] = np.zeros(1, bool)
        return block

    def lines(self, data: bytes) -> list[bytes]:
        """The lines with their ends."""
        return lines_with_ends(data)

    def _part(self, data: bytes, columns: tuple[str, ...]) -> Block:
        found = self._vectorised(data)
        if found is None:
            records = LineRecords(self._index_of)
            for line in lines_with_ends(data):
                records.add(line)
            found = records.records()
        return self._block(found, columns)

    def _index_of(self, namespace: bytes, name: bytes, anonymous: int) -> int:
        if not self.numbered:
            return hashed_index(namespace, name, anonymous, self.dimension - 1)
        if not name or not name.isdigit():
            raise Unreadable(
                f": the feature {shown(name)} is no number",
                "with n_features= names are indices; without it, or with bits=, they are hashed",
            )
        if int(name) >= self.dimension:
            raise Unreadable(f": the feature {shown(name)} is greater than n_features allows")
        return int(name)

    def _vectorised(self, data: bytes) -> VwRecords | None:
        """The records of text of the usual form, None of any other."""
        tokens = _Tokens.of(data)
        if tokens is None:
            return None
        try:
            head = tokens.heads()
            indices, values = tokens.features(self.dimension - 1, self.numbered)
        except (pa.ArrowInvalid, _Odd):
            return None
        if self.numbered and len(indices) and int(indices.max()) >= self.dimension:
            return None
        return VwRecords(*head, tokens.indptr(), indices, values)

    def _block(self, found: VwRecords, columns: tuple[str, ...]) -> Block:
        rows = len(found.labels)
        indptr, indices, values = found.indptr, found.indices, found.values
        if self.constant:
            ends, place = indptr[1:], CONSTANT & (self.dimension - 1)
            indices, values = np.insert(indices, ends, place), np.insert(values, ends, 1.0)
            indptr = indptr + np.arange(rows + 1)
        made = {
            LABEL: found.labels,
            WEIGHT: found.weights,
            BASE: found.bases,
            TAG: found.tags,
            FEATURES: _in_order(indptr, indices, values, self.dimension),
        }
        missing = LABEL in columns and not found.labelled.all()
        return Block(
            rows,
            {name: made[name] for name in columns},
            {LABEL: found.labelled} if missing else {},
        )


def _in_order(indptr: Array, indices: Array, values: Array, dimension: int) -> SparseColumn:
    """Vectors with ascending indices; those of an index that occurs repeatedly are added up."""
    rising = np.diff(indices) > 0
    starts = indptr[1:-1]
    rising[starts[(starts > 0) & (starts < len(indices))] - 1] = True
    if not rising.all():
        rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        keys = rows * dimension + indices
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        values = np.add.reduceat(values[order], first)
        keys = keys[first]
        indices = keys % dimension
        indptr = np.searchsorted(keys, np.arange(len(indptr)) * dimension)
    return SparseColumn(
        indptr.astype(np.int64, copy=False), indices.astype(np.int32), values, dimension
    )


class _Odd(Exception):
    """Text that the line-by-line parser has to look at."""


@dataclass(frozen=True)
class _Tokens:
    """What lies before each separator, maybe nothing: one token for each.

    `kind` is that of the separator behind a token, `before` that of the one before it; `space`
    counts the bars before it, `row` the records.
    """

    texts: pa.Array  # of the tokens that are not empty
    full: Array
    kind: Array
    before: Array
    is_head: Array
    space: Array
    row: Array
    rows: int

    @classmethod
    def of(cls, data: bytes) -> _Tokens | None:
        """None where a line has another form."""
        if not data.endswith(b"\n"):
            data = data + b"\n"
        kinds = np.take(_KIND, np.frombuffer(data, np.uint8))
        at = np.flatnonzero(kinds != _TOKEN)
        kind = kinds[at]
        lengths = np.diff(at, prepend=-1) - 1
        full = lengths > 0
        if bool((kind == _CONTROL).any()):
            return None
        before = np.concatenate([[np.uint8(_END)], kind[:-1]])
        is_bar, is_end = kind == _BAR, kind == _END
        bars = np.cumsum(is_bar)
        space = bars - is_bar
        ends = np.flatnonzero(is_end)
        line = np.cumsum(is_end) - is_end
        until = bars[ends]
        has_bar = np.diff(until, prepend=0) > 0
        is_head = space == np.concatenate([[0], until[:-1]])[line]
        if bool((is_head & full & ~has_bar[line]).any()):
            return None
        row = (np.cumsum(has_bar) - 1)[line]
        texts = token_texts(data, lengths[full], _SEPARATORS)
        rows = int(np.count_nonzero(has_bar))
        return cls(texts, full, kind, before, is_head, space, row, rows)

    def heads(self) -> tuple[Array, Array, Array, Array, pa.Array]:
        """Labels, which records have one, weights, bases and tags.

        Raises: _Odd, pa.ArrowInvalid.
        """
        at = np.flatnonzero(self.is_head & self.full)
        kind, row = self.kind[at], self.row[at]
        if bool((self.is_head & (self.kind == _COLON)).any()):
            raise _Odd
        texts = self._at(at)
        last = np.append(row[1:] != row[:-1], True)[: len(row)]
        quoted = pc.starts_with(texts.cast(pa.binary()), b"'").to_numpy(zero_copy_only=False)
        tagged = last & (quoted | (kind == _BAR))
        words, row_of_words = texts.filter(pa.array(~tagged)), row[~tagged]
        first = np.searchsorted(row_of_words, row_of_words)
        rank = np.arange(len(row_of_words)) - first
        if len(rank) and int(rank.max()) > 2:
            raise _Odd
        numbers = _numbers(words)
        found = [np.full(self.rows, missing) for missing in (np.nan, 1.0, 0.0)]
        for place, column in enumerate(found):
            column[row_of_words[rank == place]] = numbers[rank == place]
        labelled = np.zeros(self.rows, bool)
        labelled[row_of_words] = True
        tags = self._tags(texts.filter(pa.array(tagged)), row[tagged])
        return found[0], labelled, found[1], found[2], tags

    def _tags(self, texts: pa.Array, row: Array) -> pa.Array:
        texts.validate(full=True)
        places = np.zeros(self.rows, np.int64)
        places[row] = np.arange(1, len(row) + 1)
        plain = pc.replace_substring_regex(texts, "^'", "")
        return pa.concat_arrays([pa.array([""]), plain]).take(pa.array(places))

    def indptr(self) -> Array:
        """Where the features of each record begin: int64[rows + 1]."""
        counts = np.bincount(self.row[self._is_feature], minlength=self.rows)
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])

    @property
    def _is_feature(self) -> Array:
        found: Array = self.full & (self.before == _BLANK) & ~self.is_head
        return found

    def features(self, mask: int, numbered: bool) -> tuple[Array, Array]:
        """Indices, int64, and values of all features. Raises: _Odd, pa.ArrowInvalid."""
        named = ~self.is_head & (self.kind == _COLON)
        is_value = ~self.is_head & (self.before == _COLON)
        if bool((named & is_value).any()) or bool((~self.full & (named | is_value)).any()):
            raise _Odd
        is_feature, is_space = self._is_feature, self.full & (self.before == _BAR)
        at = np.flatnonzero(is_feature)
        values = np.ones(len(self.full))
        values[np.flatnonzero(is_value) - 1] = _numbers(self._at(np.flatnonzero(is_value)))
        spaces = np.flatnonzero(is_space)
        found = values[at]
        if bool(named[spaces].any()):
            weights = np.ones(int(self.space.max()) + 1)
            weights[self.space[spaces]] = values[spaces]
            found *= weights[self.space[at]]
        names = self._at(at)
        if numbered:
            plain, numbers = numbers_of(names)
            if not plain.all() or bool((numbers > mask).any()):
                raise _Odd
            return numbers.astype(np.int64), found
        hashes = np.zeros(int(self.space.max(initial=0)) + 1, np.uint64)
        hashes[self.space[spaces]] = hashes_of(self._at(spaces), np.zeros(len(spaces), np.uint64))
        indices = hashes_of(names, hashes[self.space[at]]) & np.uint64(mask)
        return indices.astype(np.int64), found

    def _at(self, tokens: Array) -> pa.Array:
        """The texts of these tokens, which are not empty."""
        chosen = np.zeros(len(self.full), bool)
        chosen[tokens] = True
        return self.texts.filter(pa.array(chosen[self.full]))


def _numbers(texts: pa.Array) -> Array:
    """Numbers, which may have a plus sign. Raises: pa.ArrowInvalid if one is none."""
    try:
        found: Any = texts.cast(pa.float64())
    except pa.ArrowInvalid:
        texts.validate(full=True)
        found = pc.replace_substring_regex(texts, _LEADING_PLUS, r"\1").cast(pa.float64())
    numbers: Array = found.to_numpy()
    return numbers
