"""Pipelines that compute: new columns for each block, and the records that a predicate keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np

from scalops.algebra.definitions import over_source
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.expressions import (
    Call,
    Column,
    Expression,
    Opaque,
    Slot,
    columns_read,
    within,
)
from scalops.engine import physical_plan as pp
from scalops.engine.blocks import Block, block_rows
from scalops.engine.kernels.kernel import Kernel, Vector
from scalops.engine.pipelines.base import Identity, Over, Pipeline, Runtime, derived

MOST_CALLS = 16  # of functions of single numbers, for a record


class ComputePipeline(Over):
    def __init__(self, node: pp.Compute, source: Pipeline, runtime: Runtime) -> None:
        super().__init__(node.schema, source, runtime)
        self._names = node.schema.names
        made = over_source(node.map, [e for _, e in node.outputs])
        self._kernel = Kernel(made, block_rows(source.schema))
        self._made = dict(zip(self._names, made, strict=True))
        self._chosen = _chosen(self._made)
        self._is_light = is_light(made)
        source.read_only(columns_read(made))

    def expression(self, name: str) -> Expression:
        """A column over those of the source."""
        return self._made[name]

    def is_everywhere(self) -> bool:
        return self._is_light and self.source.is_everywhere()

    def identity(self, name: str) -> Identity | None:
        return computed_identity(self._made[name], self.source, self.runtime)

    def whole(self, name: str) -> Vector | None:
        made = self._made[name]
        return self.source.whole(made.name) if isinstance(made, Column) else None

    def stays(self) -> bool:
        return self._chosen is not None and self.source.stays()

    def rows(self, partition: int) -> int | None:
        return self.source.rows(partition)

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        return self._computed(self.source.blocks(partition, worker), worker)

    def between(self, partition: int, worker: int, start: int, stop: int) -> Iterator[Block]:
        return self._computed(self.source.between(partition, worker, start, stop), worker)

    def _computed(self, blocks: Iterator[Block], worker: int) -> Iterator[Block]:
        for block in chain.from_iterable(map(self._kernel.pieces, blocks)):
            if self._chosen is not None:  # no frame, no registers: short blocks are many
                yield block.chosen(self._chosen)
                continue
            frame = self.runtime.frame(worker, self._kernel)
            vectors = self._kernel.run(frame, block)
            columns = {n: v for n, (v, _) in zip(self._names, vectors, strict=True)}
            masks = {n: m for n, (_, m) in zip(self._names, vectors, strict=True) if m is not None}
            yield Block(block.rows, columns, masks)


def is_light(expressions: Iterable[Expression]) -> bool:
    """Whether computing these of a record takes less than sending what they give.

    A neutral decision: a received number is copied two or three times.
    """
    calls = [e for e in within(tuple(expressions)) if isinstance(e, (Call, Opaque))]
    kinds = [e.any_type for e in calls if isinstance(e, Call)]
    numbers = [k for k in kinds if isinstance(k, ArrayType) and not k.shape]
    return len(numbers) == len(calls) <= MOST_CALLS


def _chosen(made: Mapping[str, Expression]) -> dict[str, str] | None:
    """What columns are called below, where each is one of the source's as it is."""
    found = {n: e.name for n, e in made.items() if isinstance(e, Column) and e.record == 0}
    return found if len(found) == len(made) else None


def computed_identity(e: Expression, source: Pipeline, runtime: Runtime) -> Identity | None:
    """The identity of an expression over a pipeline's columns."""
    if isinstance(e, Column):
        return source.identity(e.name)
    parts: list[Any] = [e.digest]
    for node in within([e]):
        if isinstance(node, Column):
            parts.append(source.identity(node.name))
        elif isinstance(node, Slot):
            parts.append((node.number, runtime.slot_versions.get(node.number)))
        elif isinstance(node, Opaque):
            return None
    if None in parts or not any(isinstance(p, bytes) for p in parts[1:]):
        return None
    return derived(*parts)


class SelectPipeline(Over):
    def __init__(self, node: pp.Select, source: Pipeline, runtime: Runtime) -> None:
        super().__init__(node.schema, source, runtime)
        self._predicate = node.predicate
        self._kernel = Kernel([node.predicate], block_rows(source.schema))
        self._is_light = is_light([node.predicate])

    def is_everywhere(self) -> bool:
        return self._is_light and self.source.is_everywhere()

    def read_only(self, names: Iterable[str]) -> None:
        self.source.read_only({*names, *columns_read([self._predicate])})

    def identity(self, name: str) -> Identity | None:
        kept = computed_identity(self._predicate, self.source, self.runtime)
        own = self.source.identity(name)
        return None if kept is None or own is None else derived("kept", kept, own)

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        blocks = self.source.blocks(partition, worker)
        for block in chain.from_iterable(map(self._kernel.pieces, blocks)):
            frame = self.runtime.frame(worker, self._kernel)
            ((kept, mask),) = self._kernel.run(frame, block)
            yield block.keep(np.asarray(kept if mask is None else kept & mask))
