"""A plan on its way from the driver to the ranks, and its sources made there what they were.

The driver pickles, a worker unpickles: never the other way round. Nodes are pickled one by one,
children before those that hold them, so that neither depth nor sharing costs more than its size.
A source in the driver's memory stays there (`remote_source.py`); files travel by their paths and
must be found unchanged.
"""

from __future__ import annotations

import io
import pickle
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cloudpickle
import msgpack

from scalops.algebra.errors import ExecutionError, PlanError
from scalops.algebra.fingerprint import fingerprint
from scalops.algebra.tree import Node
from scalops.engine import physical_plan as pp
from scalops.engine.cluster.file_sources import check_files
from scalops.engine.cluster.rank_caches import RankCaches, with_keys
from scalops.engine.cluster.remote_source import (
    Fetched,
    KeptHere,
    MappedBlocks,
    MappedColumns,
    PartitionStore,
    Records,
    RemoteSource,
    TableFacts,
)
from scalops.engine.cluster.shared_tables import Placement
from scalops.engine.cluster.source_server import PlanTable
from scalops.engine.cluster.versions import differences, own_versions
from scalops.engine.collective import ALONE, Ranks

_FORMAT = 1
_PREFIX = 8  # bytes of the length of what is compared first
_NODE, _TABLE = "node", "table"


def plan_digest(plan: pp.PhysicalPlan) -> str:
    """A fingerprint of stages and program: equal where the same is computed of the same data."""
    return fingerprint(*plan.stages, *plan.program)


# In the driver.


def encode_plan(
    plan: pp.PhysicalPlan,
    tables: Sequence[PlanTable],
    placed: Mapping[int, Placement] | None = None,
) -> bytes:
    """A plan over `tables` (`plan_tables(plan)`), which workers of this machine map as `placed`.

    Raises: PlanError where something in it cannot be pickled.
    """
    made = io.BytesIO()
    head = msgpack.packb([_FORMAT, dict(own_versions()), plan_digest(plan)])
    made.write(len(head).to_bytes(_PREFIX, "little") + head)
    pickler = _Pickler(made, {id(t.source): t.facts.number for t in tables})
    try:
        pickler.dump([(t.facts, (placed or {}).get(t.facts.number)) for t in tables])
        made_of = {t.facts.number: t.source.origin for t in tables if t.facts.remade}
        roots = [*plan.stages, *plan.program, *plan.loops, *made_of.values()]
        nodes = _children_first(roots)
        pickler.dump(len(nodes))
        for node in nodes:
            with _at(node):
                pickler.dump((type(node), node.__getstate__()))
            pickler.nodes[id(node)] = len(pickler.nodes)
        pickler.dump((plan, made_of))
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
        raise PlanError(
            f"the plan cannot be sent to the workers: {error}",
            hint="what a function closes over, and what a Value holds, must be data",
        ) from error
    return made.getvalue()


@contextmanager
def _at(node: Node) -> Iterator[None]:
    """An error of what cannot travel is at the line of the node that holds it."""
    try:
        yield
    except PlanError as error:
        error.location = error.location or node.location
        raise


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Nodes that are known and sources of the driver's go by their numbers."""

    def __init__(self, file: io.BytesIO, tables: Mapping[int, int]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._tables = tables
        self.nodes: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> tuple[str, int] | None:
        if isinstance(obj, Node):
            number = self.nodes.get(id(obj))
            return None if number is None else (_NODE, number)
        table = self._tables.get(id(obj))
        return None if table is None else (_TABLE, table)


def _children_first(roots: Sequence[Node]) -> list[Node]:
    """Every node below the roots, each object once: equal ones may differ in the user's line."""
    found: dict[int, Node] = {}
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        node, entered = stack.pop()
        if id(node) in found:
            continue
        if entered:
            found[id(node)] = node
        else:
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(node.children))
    return list(found.values())


# At a rank.


def decode_plan(
    data: bytes | memoryview, store: PartitionStore, caches: RankCaches, ranks: Ranks = ALONE
) -> Decoded:
    """The plan again, over sources that are here.

    Raises: ExecutionError where it is not the plan that was sent, or of other versions; DataError
    for a file that this host has not, or has changed.
    """
    source = io.BytesIO(data)
    digest = _checked_digest(source)
    unpickler = _Unpickler(source)
    told: list[tuple[TableFacts, Placement | None]] = unpickler.load()
    kept: dict[int, KeptHere] = {}
    for facts, placement in told:
        records = _records(facts, placement, store, caches, ranks)
        unpickler.tables.append(RemoteSource(facts, records))
        if isinstance(records, KeptHere):
            kept[facts.number] = records
    try:
        plan, made_of = unpickler.plan()
    except (ImportError, AttributeError) as error:
        raise ExecutionError(
            f"the plan needs what {socket.gethostname()} does not have: {error}",
            hint="install what the program imports on every host",
        ) from error
    check_files((*plan.stages, *made_of.values()))
    if plan_digest(plan) != digest:
        raise ExecutionError(
            "the plan that has arrived is not the one that was sent",
            hint="install the same version of scalops, and of what the program imports, everywhere",
        )
    for number, origin in made_of.items():
        kept[number].origin = origin
    may_wait = any(t.may_wait for t in unpickler.tables)
    return Decoded(with_keys(plan), tuple(t.facts for t in unpickler.tables), may_wait)


@dataclass(frozen=True)
class Decoded:
    """A plan at a rank, and what is known of the driver's tables that it reads.

    With `may_wait` to read one may be to wait for the driver.
    """

    plan: pp.PhysicalPlan
    tables: tuple[TableFacts, ...]
    may_wait: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        """Under which keys `RankCaches` has what it has of these tables."""
        return tuple(t.key for t in self.tables)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.nodes: list[Node] = []
        self.tables: list[RemoteSource] = []

    def plan(self) -> tuple[pp.PhysicalPlan, dict[int, pp.PhysicalTable]]:
        """The plan, after its nodes; of tables by number what they are made of."""
        for _ in range(self.load()):
            kind, state = self.load()
            node = kind.__new__(kind)
            node.__setstate__(state)
            self.nodes.append(node)
        found: tuple[pp.PhysicalPlan, dict[int, pp.PhysicalTable]] = self.load()
        return found

    def persistent_load(self, pid: Any) -> Any:
        kind, number = pid
        return self.nodes[number] if kind == _NODE else self.tables[number]


def _checked_digest(source: io.BytesIO) -> str:
    """The digest that the plan must have; ExecutionError for one of other versions."""
    length = int.from_bytes(source.read(_PREFIX), "little")
    form, versions, digest = msgpack.unpackb(source.read(length))
    found = differences(versions, own_versions())
    if form != _FORMAT:
        found = [f"format {form} on the driver, {_FORMAT} on the worker"]
    if found:
        raise ExecutionError(
            f"a plan of other versions has come to {socket.gethostname()}: {'; '.join(found)}",
            hint="install the same versions on all hosts",
        )
    return str(digest)


def _records(
    facts: TableFacts,
    placement: Placement | None,
    store: PartitionStore,
    caches: RankCaches,
    ranks: Ranks,
) -> Records:
    if facts.away:
        return KeptHere(facts, caches)
    if placement is not None:
        try:
            if placement.columns is not None:
                return MappedColumns(facts, placement)
            return MappedBlocks(placement)
        except OSError as error:  # of another machine, or the driver has moved it
            if facts.wholes:
                # Ranks that have a column whole and ranks that have not would ask differently.
                raise ExecutionError(
                    f"{socket.gethostname()} cannot map the driver's memory of {facts.title}:"
                    f" {error}",
                    hint="workers of one session share a machine and a user, or none does",
                ) from error
    return Fetched(facts, store, caches, ranks)
