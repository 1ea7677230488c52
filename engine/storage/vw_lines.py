"""Lines in Vowpal Wabbit's format one by one: what the vectorised parser cannot take, and errors.

[label [importance [base]]] ['tag]|[namespace[:weight]] feature[:value] ... |...
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from scalops.engine.blocks import Array
from scalops.engine.storage.bad_records import Unreadable
from scalops.engine.storage.number_text import number_of, shown
from scalops.engine.storage.vw_hash import hashes_of

_BLANKS = b" \t\r"
_BLANK = (b" ", b"\t", b"\r")
_WORDS = re.compile(rb"[^ \t\r]+")
_CONTROLS = bytes(range(33))  # which Vowpal Wabbit takes off both ends of a name
_HEAD = ("label", "importance", "base")
_SUPPORTED = (
    "read_vw reads simple labels, [label [importance [base]]]; those of several classes with costs,"
    " contextual bandits, slates and several labels are not supported: read them by so.read_text"
)

IndexOf = Callable[[bytes, bytes, int], int]


@dataclass
class VwRecords:
    """Records as they were written: features in their order, repeated ones too.

    `labels`, `weights`, `bases`: float64[records], NaN where `labelled` is false; `tags`: strings;
    `indptr`, `indices`: int64; `values`: float64.
    """

    labels: Array
    labelled: Array
    weights: Array
    bases: Array
    tags: pa.Array
    indptr: Array
    indices: Array
    values: Array


@dataclass
class LineRecords:
    """Parses lines one by one; `index_of(namespace, name, anonymous)` numbers a feature.

    A feature without a name counts those before it in its namespace: `anonymous`.
    """

    index_of: IndexOf
    labels: list[float | None] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    bases: list[float] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, line: bytes) -> None:
        """One line, with or without its end; an empty one is no record. Raises: Unreadable."""
        line = line.rstrip(b"\n")
        if not line.strip(_BLANKS):
            return
        head, bar, rest = line.partition(b"|")
        if not bar:
            raise Unreadable(": it has no '|', which begins the features")
        before = len(self.indices)
        self._add_head(head)
        for part in rest.split(b"|"):
            self._add_namespace(part)
        self.lengths.append(len(self.indices) - before)

    def records(self) -> VwRecords:
        """All that were added."""
        labelled = [label is not None for label in self.labels]
        return VwRecords(
            np.array([np.nan if label is None else label for label in self.labels], np.float64),
            np.array(labelled, bool),
            np.array(self.weights, np.float64),
            np.array(self.bases, np.float64),
            pa.array(self.tags, pa.string()),
            np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths, dtype=np.int64)]),
            np.array(self.indices, np.int64),
            np.array(self.values, np.float64),
        )

    def _add_head(self, head: bytes) -> None:
        words = _WORDS.findall(head)
        tag = b""
        if words and (words[-1].startswith(b"'") or head[-1:] not in _BLANK):
            tag = words.pop().removeprefix(b"'")
        if len(words) > len(_HEAD) or any(set(word) & set(b":,") for word in words):
            raise Unreadable(f": {shown(b' '.join(words))} is no label", _SUPPORTED)
        numbers = [self._number(i, word) for i, word in enumerate(words)]
        try:
            self.tags.append(tag.decode())
        except UnicodeDecodeError:
            raise Unreadable(f": the tag {shown(tag)} is no UTF-8") from None
        self.labels.append(numbers[0] if numbers else None)
        self.weights.append(numbers[1] if len(numbers) > 1 else 1.0)
        self.bases.append(numbers[2] if len(numbers) > 2 else 0.0)

    @staticmethod
    def _number(place: int, word: bytes) -> float:
        try:
            return number_of(word, f"{_HEAD[place]} {shown(word)}")
        except Unreadable as error:
            raise Unreadable(error.reason, _SUPPORTED) from None

    def _add_namespace(self, part: bytes) -> None:
        named = not part.startswith(_BLANK)
        words = _WORDS.findall(part)
        namespace, weight = b"", 1.0
        if named and words:
            namespace, weight = self._weighted(words.pop(0))
            if not namespace:
                raise Unreadable(f": {shown(part)} has no namespace before its ':'")
        anonymous = 0
        for word in words:
            name, value = self._weighted(word)
            self.indices.append(self.index_of(namespace, name, anonymous))
            self.values.append(weight * value)
            anonymous += not name

    @staticmethod
    def _weighted(word: bytes) -> tuple[bytes, float]:
        """`name:value` or `name`."""
        name, colon, text = word.partition(b":")
        value = number_of(text, f"value in {shown(word)}") if colon else 1.0
        return name.strip(_CONTROLS), value


def hashed_index(namespace: bytes, name: bytes, anonymous: int, mask: int) -> int:
    """The place of a feature among `mask + 1`."""
    seed = _hash(namespace, 0) if namespace else 0
    number = _hash(name, seed) if name else seed + anonymous
    return number & mask


def _hash(name: bytes, seed: int) -> int:
    texts = pa.array([name], pa.binary()).view(pa.string())
    return int(hashes_of(texts, np.array([seed], np.uint64))[0])
