"""Records that cannot be read: what is said of them, and the account of those passed over."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

from scalops.algebra.errors import PlanError
from scalops.algebra.operators import Scan

OnError = Literal["raise", "skip", "null"]
SHOWN = 3  # first bad records of a chunk whose reasons are kept
_MOST_CHARACTERS = 1000  # of a reason, which quotes the field; this may be a whole file

logger = logging.getLogger("scalops")


class Unreadable(Exception):
    """Lines that cannot be read. Of a single line `reason` says why, as it goes on after its
    number (": column 'a' holds 'x', expected int64"), and `hint` what to do. Of several lines `row`
    may say which one, from 0, is likely to be bad."""

    def __init__(self, reason: str, hint: str | None = None, row: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.hint, self.row = reason, hint, row


def checked_mode(on_error: str) -> OnError:
    """The option as given. Raises: PlanError for any other than the three."""
    if on_error not in ("raise", "skip", "null"):
        raise PlanError(f'on_error={on_error!r} must be "raise", "skip" or "null"')
    return on_error  # type: ignore[return-value]


@dataclass
class Sifted:
    """Numbers of lines: of those that can be read, with their `texts`; of bad ones, which with
    emptied fields may be among them; and of those that may be either."""

    readable: list[int] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)
    bad: list[int] = field(default_factory=list)
    unsure: list[int] = field(default_factory=list)

    def keep(self, number: int, text: bytes) -> None:
        """A line that can be read as `text`."""
        self.readable.append(number)
        self.texts.append(text)


@dataclass(frozen=True)
class BadRecord:
    """A line that begins at byte `position` of file number `file`."""

    file: int
    position: int
    reason: str


@dataclass(eq=False)
class BadRecords:
    """The bad records of one run, by the chunk they are in: a chunk that is read again, by a
    later pass or another thread, counts once."""

    _chunks: dict[tuple[int, int], tuple[int, list[BadRecord]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __reduce__(self) -> tuple[object, ...]:
        return (BadRecords, ())

    def note(self, file: int, begin: int, found: Sequence[BadRecord]) -> None:
        """Those of the chunk of a file that begins at byte `begin`."""
        with self._lock:
            if found and len(found) > self._chunks.get((file, begin), (0, []))[0]:
                shown = [replace(r, reason=_shortened(r.reason)) for r in found[:SHOWN]]
                self._chunks[file, begin] = len(found), shown

    def given_up(self) -> list[Any]:
        """All that is known, as data for `take_over` of another account; it is forgotten here."""
        with self._lock:
            chunks = sorted(self._chunks.items())
            self._chunks.clear()
        return [
            [*chunk, count, [[r.file, r.position, r.reason] for r in records]]
            for chunk, (count, records) in chunks
        ]

    def take_over(self, items: Any) -> None:
        """What another account has given up. Raises ValueError for nonsense."""
        for item in items:
            match item:
                case [int(file), int(begin), int(count), list(first)]:
                    known = [_record(r) for r in first[:SHOWN]]
                case _:
                    raise ValueError("bad records that make no sense")
            with self._lock:
                if count > self._chunks.get((file, begin), (0, []))[0]:
                    self._chunks[file, begin] = count, known

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._chunks.clear()

    def taken(self) -> tuple[int, list[BadRecord]]:
        """How many there are, and the first few in file order; they are forgotten."""
        with self._lock:
            chunks = sorted(self._chunks.items())
            self._chunks.clear()
        first = [record for _, (_, records) in chunks for record in records]
        return sum(count for _, (count, _) in chunks), first[:SHOWN]


def _shortened(reason: str) -> str:
    """Beginning and end of a reason that is too long."""
    if len(reason) <= _MOST_CHARACTERS:
        return reason
    half = _MOST_CHARACTERS // 2
    return f"{reason[:half]} ... {reason[-half:]}"


def _record(item: Any) -> BadRecord:
    match item:
        case [int(file), int(position), str(reason)]:
            return BadRecord(file, position, reason)
    raise ValueError("a bad record that makes no sense")


@contextmanager
def bad_records_reported(scans: Sequence[Scan]) -> Iterator[None]:
    """Around a run: for each source that passed over records a warning says how many, and which
    came first."""
    sources = {id(scan.source): scan for scan in scans if isinstance(scan.source, Account)}
    for scan in sources.values():
        _account(scan).forget_bad_records()
    yield
    for scan in sources.values():
        text = _account(scan).bad_records()
        if text is not None:
            where = "" if scan.location is None else f" ({scan.location})"
            logger.warning("%s%s: %s", scan.source.title, where, text)


@runtime_checkable
class Account(Protocol):
    """A source that may pass over records."""

    def forget_bad_records(self) -> None:
        """A run begins: what was passed over before counts no more."""

    def bad_records(self) -> str | None:
        """What was passed over since, None if nothing was."""


def _account(scan: Scan) -> Account:
    assert isinstance(scan.source, Account)
    return scan.source
