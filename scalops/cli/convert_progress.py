"""How far `scalops convert` is: which share of its files has been read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from time import monotonic
from typing import Any, TextIO

from scalops.engine.blocks import Block
from scalops.engine.storage import FileSource, Partition
from scalops.table import Table

_PLAIN_SECONDS = 1.0


@dataclass(frozen=True, eq=False, repr=False)
class WatchedFiles(FileSource):
    """Files of which is told which partitions have been read."""

    watch: Callable[[Partition], None] = lambda partition: None

    def read(self, partition: Partition, columns: tuple[str, ...]) -> Iterator[Block]:
        """As of files."""
        yield from super().read(partition, columns)
        self.watch(partition)


class Watch:
    """Adds up what has been read, and tells `show` the share; threads may share it."""

    def __init__(self, partitions: list[Partition], show: Callable[[float], None]) -> None:
        self._total = max(1, sum(p.stop - p.start for p in partitions))
        self._read, self._show = 0, show
        self._lock = threading.Lock()

    def __call__(self, partition: Partition) -> None:
        with self._lock:
            self._read += partition.stop - partition.start
            self._show(self._read / self._total)


@contextmanager
def watched(table: Table, wanted: bool | None, stream: TextIO) -> Iterator[Table]:
    """The table, of whose files a line on the stream says how much has been read."""
    is_terminal = stream.isatty()
    if not (is_terminal if wanted is None else wanted):
        yield table
        return
    with _on_terminal(stream) if is_terminal else _in_lines(stream) as show:
        plan: Any = table.plan
        source: FileSource = plan.source
        known = {f.name: getattr(source, f.name) for f in fields(FileSource)}
        files = WatchedFiles(**known, watch=Watch(source.partitions(), show))
        yield Table(replace(plan, source=files))


@contextmanager
def _on_terminal(stream: TextIO) -> Iterator[Callable[[float], None]]:
    """A bar that disappears."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    columns = BarColumn(24), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(file=stream), transient=True) as shown:
        task = shown.add_task("", total=1.0)
        yield lambda share: shown.update(task, completed=share)


@contextmanager
def _in_lines(stream: TextIO) -> Iterator[Callable[[float], None]]:
    """At most one line a second, and one at the end."""
    said_at, last = monotonic(), 0.0

    def show(share: float) -> None:
        nonlocal said_at, last
        last = share
        if monotonic() - said_at >= _PLAIN_SECONDS:
            said_at = monotonic()
            print(f"{share:.0%} read", file=stream, flush=True)

    yield show
    print(f"{last:.0%} read", file=stream, flush=True)
