"""A sort of much more than the memory that the system gives, written as it comes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

GROUPS = Path("/sys/fs/cgroup/memory")
LIMIT = 1 << 30
ROWS, WIDTH = 6_000_000, 62  # of 64 * 8 bytes: 3 GB

PROGRAM = """
import json, sys
import scalops as so

with so.session(memory="400MB"):
    so.read_parquet(sys.argv[1]).sort("k").write_parquet(sys.argv[2], compression=None)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({"peak": int(status["VmHWM"].split()[0]) << 10}))
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of so much memory, whose swap does not count as more."""
    if not os.access(GROUPS, os.W_OK) or not (GROUPS / "memory.limit_in_bytes").exists():
        pytest.skip("no control group of memory can be made here")
    made = GROUPS / f"scalops-test-{os.getpid()}"
    made.mkdir()
    try:
        (made / "memory.limit_in_bytes").write_text(str(LIMIT))
        yield made
    finally:
        with suppress(OSError):
            made.rmdir()


def make(path: Path) -> float:
    """A file of keys in any order and rows of numbers; the sum of the numbers in one column."""
    rng = np.random.default_rng(0)
    keys, total, part = rng.permutation(ROWS), 0.0, ROWS // 120
    schema = pa.schema([("k", pa.int64()), ("n", pa.int64()), ("v", pa.list_(pa.float64(), WIDTH))])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as file:
        for start in range(0, ROWS, part):
            own = keys[start : start + part]
            v = rng.random((part, WIDTH))
            total += float(v[:, 0].sum())
            values = pa.FixedSizeListArray.from_arrays(pa.array(v.reshape(-1)), WIDTH)
            file.write_table(pa.table([own, own * 3, values], schema=schema))
    return total


@pytest.mark.long
def test_three_gigabytes_are_sorted_in_one(group: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    total = make(source)
    enter = f'echo $$ > {group}/cgroup.procs && exec "$0" "$@"'
    command = [sys.executable, "-c", PROGRAM, str(source), str(target)]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "SCALOPS_PROCESSES": "0"}
    done = subprocess.run(
        ["sh", "-c", enter, *command], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    print(f"\npeak resident memory {found['peak'] / 1e6:.0f} MB of {LIMIT / 1e6:.0f} MB")
    assert found["peak"] < LIMIT
    source.unlink()
    at, sums = 0, 0.0
    for batch in pq.ParquetFile(target).iter_batches(50_000):
        assert np.array_equal(batch["k"], np.arange(at, at + len(batch)))
        assert np.array_equal(batch["n"], 3 * np.arange(at, at + len(batch)))
        at += len(batch)
        sums += pc.sum(pc.list_element(batch["v"], 0)).as_py()
    assert at == ROWS
    assert abs(sums - total) < 1e-6 * total
