"""Plans and their tables arrive at the ranks as they were; what has changed is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.errors import DataError, ExecutionError, PlanError
from scalops.engine import physical_display
from scalops.engine import physical_plan as pp
from scalops.engine.blocks import Block, partition_bounds
from scalops.engine.cluster import plan_codec, shared_tables
from scalops.engine.cluster.file_sources import bad_records_of, note_bad_records
from scalops.engine.cluster.plan_codec import decode_plan, encode_plan, plan_digest
from scalops.engine.cluster.rank_caches import RankCaches
from scalops.engine.cluster.remote_source import PartitionStore, RemoteSource, tables_gone
from scalops.engine.cluster.shared_tables import SharedTables
from scalops.engine.cluster.source_server import PlanTable, SourceServer, plan_tables
from scalops.engine.collective import Piece, Ranks
from scalops.engine.kept_tables import KeptSource, KeptTable
from scalops.engine.pipelines.base import contiguous
from scalops.engine.storage import FileSource, MemorySource
from scalops.explain import _node
from scalops.planning import plan as planned
from scalops.results import take_leaves
from tests.cluster.test_block_codec import bits
from tests.programs.test_shared_programs import PROGRAMS, load

ROWS = 700
RNG = np.random.default_rng(4)


def plan_of(wanted: Any) -> pp.PhysicalPlan:
    """The plan of what a program returns."""
    return planned(op.Job(tuple(_node(leaf) for leaf in take_leaves(wanted, "explain"))))


def no_driver(source: int, partitions: tuple[int, ...]) -> None:
    """For plans whose tables are mapped."""
    raise AssertionError(f"partitions {partitions} of {source} are asked for")


def decoded(data: bytes, ask: Callable[..., None] = no_driver) -> pp.PhysicalPlan:
    """The plan as a rank has it."""
    return decode_plan(data, PartitionStore(ask), RankCaches()).plan


def shown(plan: pp.PhysicalPlan) -> str:
    """What explain shows of a plan, and its fingerprints."""
    return f"{physical_display.display(plan).to_text()}\n{plan_digest(plan)} {plan.fingerprint}"


# Plans.


def loop() -> Any:
    """A loop over a cached table, with a function that is called as it is."""
    x = RNG.normal(size=(ROWS, 3))
    t = so.table({"x": x, "s": [f"n{i % 5}" for i in range(ROWS)]}, name="points")
    centre = np.arange(3.0)

    def odd(r: Any) -> float:
        return 1.0 if len(r.s) % 2 else float(centre @ r.x)

    kept = t.map(lambda r: {"x": r.x - centre, "y": r.x.sum()})
    opaque = t.map(so.udf(odd, returns=so.float64))

    @so.loop(so.range(3))
    def descend(env: Any, i: Any) -> None:
        env.w = env.w - 0.1 * kept.sum(lambda r: (r.x @ env.w - r.y) * r.x) / ROWS

    return [descend(w=np.zeros(3)), opaque.sum(), t.group_by("s").agg(n=so.count())]


SUBPROCESS = """
import json, sys
from scalops.engine import physical_display
from scalops.engine.cluster.plan_codec import decode_plan, plan_digest
from scalops.engine.cluster.rank_caches import RankCaches
from scalops.engine.cluster.remote_source import PartitionStore
found = []
for path in sys.argv[1:]:
    decoded = decode_plan(open(path, "rb").read(), PartitionStore(print), RankCaches())
    plan = decoded.plan
    text = physical_display.display(plan).to_text()
    found.append(f"{text}\\n{plan_digest(plan)} {plan.fingerprint}")
print(json.dumps(found))
"""
# Programs that take long to plan, or that others here are like.
"""Names of programs whose plans are sent."""


def test_plans_are_the_same_in_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_codec, "with_keys", lambda plan: plan)
    folder = Path(os.environ.get("SCALOPS_TEST_PROGRAMS", "/nowhere"))
    raise NotImplementedError(folder)
