"""Decoding files: the engine's readers over files that are in memory, as just written ones are."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet

from scalops.engine.calibration.measurement import Effort, Outcome, Probe, rate, seconds_of
from scalops.engine.storage import read_csv, read_ipc, read_parquet
from scalops.engine.storage.file_source import FileSource

_ROWS, _LINES = 1 << 17, 1 << 14
_COLUMNS = 8


def _table(rows: int) -> pa.Table:
    numbers = np.random.default_rng(0).normal(size=(_COLUMNS, rows))
    return pa.table({f"c{i}": column for i, column in enumerate(numbers)})


def _decoded(source: FileSource) -> int:
    """Read all of a source; bytes of its blocks."""
    names = source.schema.names
    parts = source.partitions()
    return sum(b.bytes for part in parts for b in source.read(part, names))


def _read(
    name: str,
    write: Callable[[pa.Table, str], Any],
    read: Callable[[str], FileSource],
    as_text: bool,
    effort: Effort,
) -> Iterator[Outcome]:
    with tempfile.TemporaryDirectory(prefix="scalops-calibration-") as folder:
        path = Path(folder) / f"table.{name}"
        write(_table(effort.size(_LINES if as_text else _ROWS)), str(path))
        source = read(str(path))
        work = path.stat().st_size if as_text else _decoded(source)
        yield rate(name, "bytes/s", work, seconds_of(lambda: _decoded(source), effort))


def _probe(
    name: str,
    write: Callable[[pa.Table, str], Any],
    read: Callable[[str], FileSource],
    as_text: bool = False,
) -> Probe:
    return Probe("readers", (name,), partial(_read, name, write, read, as_text))


PROBES = (
    _probe("parquet", pa.parquet.write_table, read_parquet),
    _probe("ipc", partial(pa.feather.write_feather, compression="uncompressed"), read_ipc),
    _probe("csv", pa.csv.write_csv, read_csv, as_text=True),
)
