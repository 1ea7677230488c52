"""Byte ranges over text files that are laid end to end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

from scalops.engine.blocks import MAX_PARTITIONS, MIN_PARTITION_BYTES
from scalops.engine.storage.files import File
from scalops.engine.storage.lines import chunks_beginning, head, is_compressed
from scalops.engine.storage.partitions import Partition, pieces

_HEAD_BYTES = 65_536
_PACKED = 4  # bytes of text in one of a compressed file, about


@dataclass(frozen=True, eq=False)
class ByteRanges:
    """A record belongs to the range that its line begins in.

    `starts`: where the first record of each file begins, in bytes. Only the files `kept` are read,
    where given; the others count as empty.
    """

    files: tuple[File, ...]
    starts: tuple[int, ...]
    kept: frozenset[int] | None = None

    @cached_property
    def _sizes(self) -> list[int]:
        kept = range(len(self.files)) if self.kept is None else self.kept
        return [file.size if i in kept else 0 for i, file in enumerate(self.files)]

    @cached_property
    def offsets(self) -> list[int]:
        """File i holds the bytes offsets[i]..offsets[i + 1] - 1 of the whole, as on disk."""
        return list(accumulate(self._sizes, initial=0))

    @cached_property
    def likely_rows(self) -> float:
        """Bytes over the length of the lines in the first 64 KiB of records."""
        sizes = list(zip(self.files, self.starts, self._sizes, strict=True))
        for file, start, size in sizes:
            lines = head(file, start, _HEAD_BYTES) if size else b""
            if lines:
                text = sum(n * _PACKED if is_compressed(f) else max(0, n - s) for f, s, n in sizes)
                return text * max(1, lines.count(b"\n")) / len(lines)
        return 0.0

    def partitions(self) -> list[Partition]:
        """Near-equal ranges of at least 256 KiB, at most 1,024; compressed files stay whole."""
        total = self.offsets[-1]
        count = min(MAX_PARTITIONS, max(1, total // MIN_PARTITION_BYTES))
        bounds = sorted({0, total, *(self._bound(total * i // count) for i in range(count + 1))})
        if total == 0:
            bounds = [0, 0]
        found = []
        for index, (start, stop) in enumerate(pairwise(bounds)):
            within = {self.files[file].path for file, _, _ in pieces(self.offsets, start, stop)}
            path = within.pop() if len(within) == 1 else None
            found.append(Partition(index, start, stop, path))
        return found

    def _bound(self, position: int) -> int:
        """The position, or the end of the compressed file that it lies in."""
        for index, first, _ in pieces(self.offsets, position, position + 1):
            if first > 0 and is_compressed(self.files[index]):
                return self.offsets[index + 1]
        return position

    def heads(self) -> Iterator[Partition]:
        """The first 64 KiB, then 16 times as much each time."""
        total, stop = self.offsets[-1], _HEAD_BYTES
        while stop < total:
            yield Partition(0, 0, stop)
            stop *= 16
        yield Partition(0, 0, total)

    def chunks(self, start: int, stop: int) -> Iterator[tuple[int, int, bytes]]:
        """Whole lines of a range: the file's number, where they begin in it, the lines."""
        for index, first, last in pieces(self.offsets, start, stop):
            for begin, data in chunks_beginning(self.files[index], self.starts[index], first, last):
                yield index, begin, data
