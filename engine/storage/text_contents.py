"""Text files whose records are lines: byte ranges, parsed chunk by chunk, bad lines found.

A new format of lines is a class that fulfils `LineParser`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BytesIO
from typing import Protocol, runtime_checkable

import numpy as np

from scalops.algebra.errors import DataError
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Block, concatenate
from scalops.engine.storage.bad_records import (
    SHOWN,
    BadRecord,
    BadRecords,
    OnError,
    Sifted,
    Unreadable,
)
from scalops.engine.storage.byte_ranges import ByteRanges
from scalops.engine.storage.files import File
from scalops.engine.storage.lines import COMPRESSED, line_number, sampled
from scalops.engine.storage.partitions import Partition

_FEW_LINES = 512


class LineParser(Protocol):
    """Parses whole lines of the files, which it knows by their number."""

    def parse(self, file: int, data: bytes, columns: tuple[str, ...]) -> Block:
        """The columns of all lines. Raises: Unreadable if a line, or all together, is bad."""
        ...

    def rescue(self, file: int, line: bytes, columns: tuple[str, ...]) -> Block:
        """The one record of a bad line, with null in what cannot be read."""
        ...

    def lines(self, data: bytes) -> list[bytes]:
        """The lines with their ends."""
        ...


@runtime_checkable
class Sifter(Protocol):
    """A parser that tells most bad lines without parsing them one by one."""

    def sift(
        self, file: int, lines: Sequence[bytes], columns: tuple[str, ...], fill: bool
    ) -> Sifted | None:
        """Lines by whether they can be read; with `fill` bad ones can, with fields emptied."""
        ...


@dataclass(frozen=True, eq=False)
class TextContents:
    """Records of text files; `starts` is where the first record of each begins.

    Which records are bad does not depend on the columns that are read, if they are skipped.
    """

    files: tuple[File, ...]
    starts: tuple[int, ...]
    parser: LineParser
    schema: Schema
    digest: str
    on_error: OnError = "raise"
    bad: BadRecords = field(default_factory=BadRecords)
    kept: frozenset[int] | None = None  # the files that are read, None: all

    @property
    def rows(self) -> None:
        return None

    @property
    def any_order(self) -> bool:
        """Parsing takes longer than the disk, and compressed text is read from its beginning."""
        return False

    @property
    def likely_rows(self) -> float:
        return self._ranges.likely_rows

    @cached_property
    def _ranges(self) -> ByteRanges:
        return ByteRanges(self.files, self.starts, self.kept)

    def partitions(self, schema: Schema) -> list[Partition]:
        """Byte ranges."""
        return self._ranges.partitions()

    def heads(self, rows: int) -> Iterator[Partition]:
        """Ever longer byte ranges."""
        return self._ranges.heads()

    def read(
        self, partition: Partition, columns: tuple[str, ...], block_rows: int
    ) -> Iterator[Block]:
        """Parse the range chunk by chunk; cut it into blocks."""
        chosen = Schema(tuple((name, self.schema[name]) for name in columns))
        return _cut(self._parsed(partition, columns), chosen, block_rows)

    def _parsed(self, partition: Partition, columns: tuple[str, ...]) -> Iterator[Block]:
        wanted = self.schema.names if self.on_error == "skip" else columns
        for file, begin, data in self._ranges.chunks(partition.start, partition.stop):
            for block in self._chunk(file, begin, data, wanted):
                yield block if wanted is columns else block.only(columns)

    def _chunk(self, file: int, begin: int, data: bytes, columns: tuple[str, ...]) -> list[Block]:
        try:
            return [self.parser.parse(file, data, columns)]
        except Unreadable as error:
            lines = self.parser.lines(data)
            if self.on_error == "raise":
                offset, error = first_unreadable(
                    lambda part: self.parser.parse(file, part, columns), lines, error
                )
                raise unreadable_line(self.files[file], begin + offset, error) from error
            found: list[BadRecord] = []
            whole = self._sifted(file, begin, lines, columns, found)
            if whole is None:
                found = []
                blocks = self._halved(file, begin, lines, columns, error, found)
            self.bad.note(file, begin, found)
            return blocks if whole is None else [whole]

    def _sifted(
        self,
        file: int,
        begin: int,
        lines: Sequence[bytes],
        columns: tuple[str, ...],
        found: list[BadRecord],
    ) -> Block | None:
        """The records of lines of which some are bad, parsed in one go but for doubtful ones;
        None where the parser cannot tell."""
        fill = self.on_error == "null"
        told = (
            self.parser.sift(file, lines, columns, fill)
            if isinstance(self.parser, Sifter)
            else None
        )
        if told is None:
            return None
        starts = np.cumsum([begin, *map(len, lines)]).tolist()
        try:
            blocks = [self.parser.parse(file, b"".join(told.texts), columns)]
        except Unreadable:
            return None
        order = list(told.readable)
        if blocks[0].rows != len(order):
            return None
        for first, run in _runs(told.unsure, lines):
            made = self._tried(file, starts[first], run, columns, found)
            order += [first] * sum(block.rows for block in made)
            blocks += made
        found += [BadRecord(file, starts[number], "") for number in told.bad]
        found.sort(key=lambda record: record.position)
        number_at = dict(zip(starts, range(len(lines)), strict=False))
        for i, record in enumerate(found[:SHOWN]):
            if not record.reason:
                reason = self._reason(file, lines[number_at[record.position]], columns)
                if reason is None:  # not bad after all
                    return None
                found[i] = replace(record, reason=reason)
        chosen = Schema(tuple((name, self.schema[name]) for name in columns))
        return concatenate(blocks, chosen).take(np.argsort(np.array(order), kind="stable"))

    def _tried(
        self,
        file: int,
        begin: int,
        lines: Sequence[bytes],
        columns: tuple[str, ...],
        found: list[BadRecord],
    ) -> list[Block]:
        try:
            return [self.parser.parse(file, b"".join(lines), columns)]
        except Unreadable as error:
            return self._halved(file, begin, lines, columns, error, found)

    def _reason(self, file: int, line: bytes, columns: tuple[str, ...]) -> str | None:
        """Why a line is bad; None if it is not."""
        try:
            self.parser.parse(file, line, columns)
        except Unreadable as error:
            return error.reason
        return None

    def _halved(
        self,
        file: int,
        begin: int,
        lines: Sequence[bytes],
        columns: tuple[str, ...],
        error: Unreadable,
        found: list[BadRecord],
    ) -> list[Block]:
        """The records of lines of which some are bad, these being found by halving."""
        if len(lines) == 1:
            found.append(BadRecord(file, begin, error.reason))
            skipped = self.on_error == "skip"
            return [] if skipped else [self.parser.rescue(file, lines[0], columns)]
        blocks = []
        for part in _split(lines, error.row):
            try:
                blocks.append(self.parser.parse(file, b"".join(part), columns))
            except Unreadable as inner:
                blocks += self._halved(file, begin, part, columns, inner, found)
            begin += sum(map(len, part))
        return blocks

    def bad_records(self) -> str | None:
        """How many records were bad since the last call, and the first of them; None if none."""
        count, first = self.bad.taken()
        if not count:
            return None
        shown = [
            f"{self.files[r.file].path}:{line_number(self.files[r.file], r.position)}{r.reason}"
            for r in first
        ]
        what = "was skipped" if self.on_error == "skip" else "has nulls for what cannot be read"
        if count > 1:
            what = what.replace("was", "were").replace("has", "have")
        more = f" and {count - len(shown)} more" if count > len(shown) else ""
        return f"{count} record{'s' * (count > 1)} {what}: {'; '.join(shown)}{more}"


def _runs(numbers: Sequence[int], lines: Sequence[bytes]) -> Iterator[tuple[int, Sequence[bytes]]]:
    """Lines that follow each other, of those of these numbers, with the number of the first."""
    first = 0
    for i, number in enumerate(numbers):
        if i + 1 == len(numbers) or numbers[i + 1] != number + 1:
            yield numbers[first], lines[numbers[first] : number + 1]
            first = i + 1


def _split(lines: Sequence[bytes], likely: int | None) -> list[Sequence[bytes]]:
    """The lines before, at and after the likely bad one; halves where there are many or none is.

    After each bad line the parser begins anew, which among many lines would take long.
    """
    if likely is None or not 0 <= likely < len(lines) <= _FEW_LINES:
        middle = len(lines) // 2
        return [lines[:middle], lines[middle:]]
    parts = (lines[:likely], lines[likely : likely + 1], lines[likely + 1 :])
    return [part for part in parts if part]


def first_unreadable(
    parse: Callable[[bytes], object], lines: Sequence[bytes], error: Unreadable
) -> tuple[int, Unreadable]:
    """Where, in bytes, the first bad line begins, and why it is bad; `error` is that of all."""
    offset = 0
    while len(lines) > 1:
        middle = len(lines) // 2
        left = b"".join(lines[:middle])
        try:
            parse(left)
        except Unreadable as found:
            lines, error = lines[:middle], found
        else:
            offset, lines = offset + len(left), lines[middle:]
            try:
                parse(b"".join(lines))
            except Unreadable as found:
                error = found
    return offset, error


def readable_lines(parse: Callable[[bytes], object], lines: Sequence[bytes]) -> Sequence[bytes]:
    """The lines without the bad ones."""
    try:
        parse(b"".join(lines))
        return lines
    except Unreadable as error:
        if len(lines) == 1:
            return []
        return [line for part in _split(lines, error.row) for line in readable_lines(parse, part)]


def unreadable_line(file: File, position: int, error: Unreadable) -> DataError:
    """The error of a line that begins at byte `position`."""
    return DataError(f"{file.path}:{line_number(file, position)}{error.reason}", hint=error.hint)


def _cut(blocks: Iterable[Block], schema: Schema, rows: int) -> Iterator[Block]:
    """The same records in blocks of `rows`, the last one shorter."""
    waiting: list[Block] = []
    missing = rows
    for block in blocks:
        start = 0
        while block.rows - start >= missing:
            waiting.append(block.slice(start, start + missing))
            start += missing
            yield _joined(waiting, schema)
            waiting, missing = [], rows
        if start < block.rows:
            waiting.append(block.slice(start, block.rows))
            missing -= block.rows - start
    if waiting:
        yield _joined(waiting, schema)


def _joined(blocks: list[Block], schema: Schema) -> Block:
    whole = concatenate(blocks, schema)
    valid = {name: mask for name, mask in whole.valid.items() if not mask.all()}
    return Block(whole.rows, whole.columns, valid)


def or_compressed(*suffixes: str) -> tuple[str, ...]:
    """The suffixes of text files, and of the same compressed."""
    return (*suffixes, *(suffix + COMPRESSED for suffix in suffixes))


def digest_of(files: Sequence[File]) -> str:
    """A digest of a sample of the files' bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        digest.update(sampled(file))
    return digest.hexdigest()


def lines_with_ends(data: bytes) -> list[bytes]:
    """Lines that end at "\\n" alone."""
    return BytesIO(data).readlines()
