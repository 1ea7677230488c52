"""A table of groups that is larger than the memory that the system gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

GROUPS = Path("/sys/fs/cgroup/memory")
LIMIT = 512 << 20
ROWS, KEYS = 50_000_000, 20_000_000  # keys and sums take 480 MB, records 800 MB

# Row i has the key i * m modulo the number of keys, with m coprime to it: keys come in no order,
# each first row once, and a key tells which rows it has: r, r + keys, and perhaps r + 2 * keys.
PROGRAM = """
import json, sys
import numpy as np
import scalops as so

rows, keys, m = int(sys.argv[1]), int(sys.argv[2]), 7_368_787
inverse = pow(m, -1, keys)


def agrees(group):
    r = group.k * inverse % keys
    n = so.where(r + 2 * keys < rows, 3, 2)
    return (group.n == n) & (group.s == n * r + keys * (n * (n - 1) // 2))


t = so.table({"z": np.zeros(rows, np.int8)}).with_row_index("i")
t = t.map(lambda r: {"k": r.i * m % keys, "x": r.i})
sums = t.group_by("k").agg(s=so.sum("x"), n=so.count())
found = [int(v) for v in so.collect(sums.count(), sums.filter(agrees).count())]
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({"found": found, "peak": int(status["VmHWM"].split()[0]) << 10}))
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of so much memory."""
    if not os.access(GROUPS, os.W_OK) or not (GROUPS / "memory.limit_in_bytes").exists():
        pytest.skip("no control group of memory can be made here")
    made = GROUPS / f"scalops-groups-{os.getpid()}"
    made.mkdir()
    try:
        (made / "memory.limit_in_bytes").write_text(str(LIMIT))
        yield made
    finally:
        with suppress(OSError):
            made.rmdir()


@pytest.mark.long
def test_twenty_million_groups_in_half_a_gigabyte(group: Path, tmp_path: Path) -> None:
    enter = f'echo $$ > {group}/cgroup.procs && exec "$0" "$@"'
    command = [sys.executable, "-c", PROGRAM, str(ROWS), str(KEYS)]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "SCALOPS_PROCESSES": "0"}
    done = subprocess.run(
        ["sh", "-c", enter, *command], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    print(f"\npeak resident memory {told['peak'] / 1e6:.0f} MB of {LIMIT / 1e6:.0f} MB")
    assert told["found"] == [KEYS, KEYS]
