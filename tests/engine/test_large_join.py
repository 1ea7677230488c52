"""A join of two tables, each twice as long as the memory that the process may have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from scalops.engine.free_memory import free_memory

GROUPS = Path("/sys/fs/cgroup/memory")  # of control groups, version 1
TABLE_BYTES, LIMIT = 2 << 30, 1 << 30
WIDTH = 14  # numbers in a record's vector, beside a key and a number
STEPS = {"left": 7_368_787, "right": 2_038_074_743}  # primes: keys in an order as if random

PROGRAM = """
import json, os, sys, threading
group, folder, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open(os.path.join(group, "cgroup.procs"), "w") as file:
    file.write(str(os.getpid()))
import scalops as so

peak, done = 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.2):
        with open("/proc/self/status") as file:
            found = next(line for line in file if line.startswith("RssAnon"))
        peak = max(peak, 1024 * int(found.split()[1]))

watching = threading.Thread(target=watch)
watching.start()
left, right = (so.read_ipc(os.path.join(folder, f"{n}.arrow")) for n in ("left", "right"))
pairs = left.join(right, on="k")
with so.session(threads=2, memory="300MB"):
    found = so.collect({
        "rows": pairs.count(),
        "wrong": pairs.map(lambda r: abs(r.n_right - 3 * r.k)).sum(),
        "numbers": pairs.sum("n_right"),
        "vectors": pairs.sum(lambda r: r.p_right[5]),
    })
done.set()
watching.join()
print(json.dumps({n: float(v) for n, v in found.items()} | {"peak": peak}))
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with little memory."""
    made = GROUPS / f"scalops-test-{os.getpid()}"
    try:
        made.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    (made / "memory.limit_in_bytes").write_text(str(LIMIT))
    yield made
    made.rmdir()


def written(path: Path, rows: int, step: int, factor: int) -> None:
    """A table of all keys below `rows`, each once: k = i · step mod rows, n = factor · k."""
    kind = pa.schema([("k", pa.int64()), ("n", pa.int64()), ("p", pa.list_(pa.float64(), WIDTH))])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, kind) as writer:
        for start in range(0, rows, 1 << 16):
            k = np.arange(start, min(rows, start + (1 << 16))) * step % rows
            vectors = (k[:, None] * np.arange(WIDTH)).astype(np.float64)
            flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), WIDTH)
            writer.write_batch(pa.record_batch([pa.array(k), pa.array(factor * k), flat], kind))


@pytest.mark.long
def test_a_join_of_tables_larger_than_memory(group: Path, tmp_path: Path) -> None:
    rows = TABLE_BYTES // (8 * (WIDTH + 2))
    written(tmp_path / "left.arrow", rows, STEPS["left"], 1)
    written(tmp_path / "right.arrow", rows, STEPS["right"], 3)
    assert free_memory() > LIMIT
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(group), str(tmp_path), str(rows)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "SCALOPS_SPILL": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    found = json.loads(done.stdout)
    pairs = rows * (rows - 1) // 2  # of all numbers below `rows` the sum
    print(f"anonymous memory at most {found['peak'] / 1e6:.0f} MB of {LIMIT / 1e6:.0f}")
    assert found["rows"] == rows
    assert found["wrong"] == 0
    assert found["numbers"] == 3.0 * pairs
    assert found["vectors"] == pytest.approx(5.0 * pairs, rel=1e-12)
    assert found["peak"] < LIMIT
