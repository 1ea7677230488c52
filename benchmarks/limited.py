"""Programs over data that are four times as large as the memory the system gives the process.

    python -m benchmarks.limited --limit 512MB --times 4

Each runs in a process of its own, in a control group with that limit (or a limited address space):
one that took more would be ended. What it gives is compared with what a stream of NumPy blocks over
the same files gives. Prints seconds and the most anonymous memory that each had.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from benchmarks.limits import run_limited

COLUMNS, BATCH, KEYS = 20, 20_000, 50_000
ITERATIONS = 3


def batches(rows: int) -> Iterator[dict[str, np.ndarray]]:
    """The data: x float64[rows, COLUMNS], y, a key of few values and one of all."""
    for start in range(0, rows, BATCH):
        rng = np.random.default_rng(start)
        stop = min(rows, start + BATCH)
        x = rng.normal(size=(stop - start, COLUMNS))
        key = np.arange(start, stop) * 2_654_435_761 % (1 << 32)
        yield {"x": x, "y": (x[:, 0] > 0) * 1.0, "k": key % KEYS, "id": key}


def write(folder: Path, rows: int) -> None:
    """Write the data as Arrow IPC and as Parquet."""
    import pyarrow.parquet as pq

    kinds = {"y": pa.float64(), "k": pa.int64(), "id": pa.int64()}
    vector = pa.list_(pa.float64(), COLUMNS)
    schema = pa.schema([("x", vector), *kinds.items()])
    ipc = pa.ipc.new_file(str(folder / "data.arrow"), schema)
    with ipc, pq.ParquetWriter(folder / "data.parquet", schema, compression="zstd") as parquet:
        for block in batches(rows):
            x = pa.FixedSizeListArray.from_arrays(block["x"].reshape(-1), COLUMNS)
            batch = pa.record_batch([x, *(pa.array(block[n], t) for n, t in kinds.items())], schema)
            ipc.write_batch(batch)
            parquet.write_batch(batch)


# The programs, each in a process of its own.


def logistic(path: str, rows: int) -> Any:
    """Gradient descent; the model."""
    import scalops as so

    class Model(so.Environment):
        w: np.ndarray

    xy = _read(path)

    @so.loop(Model(w=np.zeros(COLUMNS)), range(ITERATIONS))
    def model(env: Any, _: Any) -> Any:
        def gradient(r: Any) -> Any:
            return (1 / (1 + np.exp(-(r.x @ env.w))) - r.y) * r.x

        env.w -= xy.map(gradient).reduce(lambda a, b: a + b) / rows
        return env

    return model.run().env.w.tolist()


def _read(path: str) -> Any:
    import scalops as so

    return so.read_ipc(path) if path.endswith("arrow") else so.read_parquet(path)


def grouped(path: str, rows: int) -> Any:
    """As many groups as records: how many there are, and a sum over all of them."""
    groups = _read(path).group_by("id").sum("y")
    return [int(groups.count().collect()), float(groups.sum(lambda r: r.y).collect())]


def joined(path: str, rows: int) -> Any:
    """The table with itself, by a key of all values: the records that meet, and a sum."""
    left, right = _read(path), _read(path).map(lambda r: {"id": r.id, "x": r.x})
    met = left.map(lambda r: {"id": r.id, "y": r.y}).join(right, on="id")
    return float(met.sum(lambda r: r.y * r.x[0]).collect())


def sorted_(path: str, rows: int) -> Any:
    """All records by their key, to a file: the first keys, and whether they ascend."""
    import scalops as so

    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        target = f"{folder}/sorted.arrow"
        _read(path).sort("id").write_ipc(target)
        found = pa.ipc.open_file(pa.memory_map(target))
        last, ascends = -1, True
        first: list[int] = []
        for number in range(found.num_record_batches):
            keys = found.get_batch(number).column("id").to_numpy()
            ascends &= bool(keys[0] >= last and (np.diff(keys) >= 0).all())
            last = int(keys[-1])
            first = first or keys[:3].tolist()
        assert so.read_ipc(target).count().collect() == rows
    return [ascends, first]


PROGRAMS: dict[str, Callable[[str, int], Any]] = {
    "logistic": logistic,
    "grouped": grouped,
    "joined": joined,
    "sorted": sorted_,
}


def expected(name: str, rows: int) -> Any:
    """What NumPy gives, block by block."""
    if name == "logistic":
        w = np.zeros(COLUMNS)
        for _ in range(ITERATIONS):
            g = np.zeros(COLUMNS)
            for block in batches(rows):
                g += (1 / (1 + np.exp(-(block["x"] @ w))) - block["y"]) @ block["x"]
            w -= g / rows
        return w.tolist()
    if name == "grouped":
        return [rows, sum(float(block["y"].sum()) for block in batches(rows))]
    if name == "joined":
        return sum(float((block["y"] * block["x"][:, 0]).sum()) for block in batches(rows))
    least = np.sort(np.concatenate([np.sort(b["id"])[:3] for b in batches(rows)]))[:3]
    return [True, least.tolist()]


def _bytes(text: str) -> int:
    from scalops.options import read_option

    return int(read_option("memory", text))


@click.command()
@click.option("--limit", default="512MB", show_default=True, help="memory of each process")
@click.option("--times", default=4.0, show_default=True, help="data: so many times the limit")
@click.option("--programs", default=",".join(PROGRAMS), show_default=True)
@click.option("--folder", default=None, help="where the data are written, and removed")
def main(limit: str, times: float, programs: str, folder: str | None) -> None:
    """Run each program within the limit; exit code 1 if one fails or gives something else."""
    size = _bytes(limit)
    rows = int(times * size / (8 * (COLUMNS + 3)))
    table = Table("program", "from", "seconds", "most memory", "of the limit", "result")
    failed = False
    with tempfile.TemporaryDirectory(dir=folder) as place:
        write(Path(place), rows)
        for name in programs.split(","):
            wanted = expected(name, rows)
            for file in ("data.arrow", "data.parquet"):
                begin = perf_counter()
                call = ["-m", "benchmarks.limited_program", name, f"{place}/{file}", str(rows)]
                ended = run_limited(call, size)
                seconds = perf_counter() - begin
                result = ended.errors.strip().splitlines()[-1:] or [f"exit {ended.code}"]
                if ended.code == 0:
                    found = json.loads(ended.output)
                    same = np.allclose(np.array(found, float), np.array(wanted, float), rtol=1e-9)
                    result = ["as NumPy's" if same else f"{found} instead of {wanted}"]
                failed |= result != ["as NumPy's"]
                mib = f"{ended.peak / 2**20:.0f} MiB"
                share = f"{ended.peak / size:.2f}"
                table.add_row(name, file, f"{seconds:.1f}", mib, share, result[0][:200])
    Console().print(f"{rows:,} records, {times:g} x {limit}, {ended.by}", table)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
