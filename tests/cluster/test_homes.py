"""Which rank is home of which partition, and tables that lie elsewhere."""

from __future__ import annotations

import pytest

from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.backends import Backend as AnyBackend
from scalops.engine.blocks import Block
from scalops.engine.collective import Ranks
from tests.cluster.lockstep import LockstepBackend
from tests.engine.plans import Backend, bits, physical, scan, wide_source

SIZES = (1, 2, 3, 5, 8, 16, 64)


@pytest.mark.parametrize("size", SIZES)
def test_every_partition_has_one_home(size: int) -> None:
    for partitions in (*range(258), 1024):
        ranks, at = Ranks(0, size), 0
        for rank in range(size):
            start, stop = ranks.range_of(rank, partitions)
            assert start == at
            assert all(ranks.home(p, partitions) == rank for p in range(start, stop))
            at = stop
        assert at == partitions


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fan_in", [2, 3, 4, 16])
def test_the_tree_reaches_every_rank_once(size: int, fan_in: int) -> None:
    all_ranks = [Ranks(i, size, (fan_in,)) for i in range(size)]
    children = [child for ranks in all_ranks for child in ranks.children]
    assert sorted(children) == list(range(1, size))
    for ranks in all_ranks:
        assert all(all_ranks[child].parent == ranks.own for child in ranks.children)
        assert len(ranks.children) < fan_in * max(1, size.bit_length())


def fetched(backend: AnyBackend, plan: pp.PhysicalPlan) -> list[list[Block]]:
    """Run stage 0, then gather stage 1."""
    backend.start(plan)
    try:
        if isinstance(plan.stages[0].sink, pp.CacheTable):
            backend.load(0)
        else:
            backend.exchange(0)
        return [backend.fetch(1, p) for p in range(backend.partitions(1))]
    finally:
        backend.stop()


@pytest.mark.parametrize("sink", [pr.HoldTable(1), pp.CacheTable(1)], ids=["held", "cached"])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_union_that_is_kept_lies_where_its_tables_do(sink: pp.Sink, size: int) -> None:
    both = pp.Concatenate(
        (scan(wide_source(3000, seed=1), "k"), scan(wide_source(9000, seed=2), "k"))
    )
    stored = pp.StoredTable(1, both.schema, pp.Properties())
    plan = physical((both, sink), (stored, pp.Gather()))
    wanted = fetched(Backend(1, None, inline=False), plan)
    assert bits(fetched(LockstepBackend(size), plan)) == bits(wanted)
