"""Pipelines that make several records of one, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow.compute as pc

from scalops.algebra.dtypes import ArrayType, ListType
from scalops.algebra.operators import item_type
from scalops.engine import physical_plan as pp
from scalops.engine.blocks import Array, Block, block_rows
from scalops.engine.columns import ColumnData, SparseColumn, concatenated, sliced, taken
from scalops.engine.kernels.kernel import Kernel, Vector
from scalops.engine.opaque.calls import bind, python_value
from scalops.engine.opaque.table_functions import call_with_table
from scalops.engine.pipelines.base import Over, Pipeline, Runtime
from scalops.engine.pipelines.row_ranges import present
from scalops.engine.storage.arrow import to_column
from scalops.engine.table_errors import unequal_lists


class UnnestPipeline(Over):
    """Items of lists and arrays as records, in blocks no larger than a block may be."""

    def __init__(self, node: pp.Unnest, source: Pipeline, runtime: Runtime) -> None:
        super().__init__(node.schema, source, runtime)
        self._node = node
        self._step = block_rows(node.schema)

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        for block in self.source.blocks(partition, worker):
            yield from self._unnested(block)

    def _unnested(self, block: Block) -> Iterator[Block]:
        node, kinds = self._node, self.source.schema
        unnested = {n: _items(block, n, kinds[n]) for n in node.names}
        lengths = next(iter(unnested.values())).lengths
        for other in unnested.values():
            if not np.array_equal(lengths, other.lengths):
                at = int(np.flatnonzero(lengths != other.lengths)[0])
                found = [int(o.lengths[at]) for o in unnested.values()]
                raise unequal_lists(node.names, found, node.location)
        total = int(lengths.sum())
        parents = np.repeat(np.arange(block.rows), lengths)
        repeated = Block(
            block.rows,
            {n: c for n, c in block.columns.items() if n in kinds and n not in unnested},
            {n: v for n, v in block.valid.items() if n not in unnested},
        )
        for start in range(0, total, self._step):
            stop = min(total, start + self._step)
            made = repeated.take(parents[start:stop])
            for name, items in unnested.items():
                values, valid = items.vector
                made.columns[name] = sliced(values, start, stop)
                if valid is not None:
                    made.valid[name] = valid[start:stop]
            if node.index is not None:
                made.columns[node.index] = next(iter(unnested.values())).places[start:stop]
            yield made


class _Items:
    """The items of a block's lists end to end: `lengths` int64[rows], `places` int64[items]."""

    def __init__(self, lengths: Array, vector: Vector, places: Array | None = None) -> None:
        self.lengths, self.vector, self._places = lengths, vector, places

    @property
    def places(self) -> Array:
        """Where each item stands in its list; of a sparse vector, its index."""
        if self._places is not None:
            return self._places
        starts = np.cumsum(self.lengths) - self.lengths
        places: Array = np.arange(int(self.lengths.sum())) - np.repeat(starts, self.lengths)
        return places


def _items(block: Block, name: str, kind: ArrayType) -> _Items:
    column, valid = block.columns[name], block.valid.get(name)
    if isinstance(kind, ListType):
        lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0)).astype(np.int64)
        return _Items(lengths, to_column(column.flatten(), item_type(kind), f"a list of {name!r}"))
    if valid is not None:
        known = np.flatnonzero(valid)
        column = taken(column, known)
    if isinstance(column, SparseColumn):
        own, flat, places = column.lengths, column.values, column.indices.astype(np.int64)
        return _Items(_spread(own, valid), (flat, None), places)
    own = np.full(len(column), kind.shape[0], np.int64)
    return _Items(_spread(own, valid), (column.reshape(-1, *kind.shape[1:]), None))


def _spread(lengths: Array, valid: Array | None) -> Array:
    """Lengths of all records, from those of the records that are not null."""
    if valid is None:
        return lengths
    spread = np.zeros(len(valid), np.int64)
    spread[valid] = lengths
    return spread


class InterleavePipeline(Over):
    """Several new records for each, by one kernel."""

    def __init__(self, node: pp.Interleave, source: Pipeline, runtime: Runtime) -> None:
        super().__init__(node.schema, source, runtime)
        self._count = len(node.records)
        roots = [e for record in node.records for _, e in record]
        self._kernel = Kernel(roots, block_rows(source.schema))
        self._step = max(1, block_rows(node.schema) // self._count)

    def rows(self, partition: int) -> int | None:
        rows = self.source.rows(partition)
        return None if rows is None else rows * self._count

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        for block in self.source.blocks(partition, worker):
            for start in range(0, block.rows, self._step):
                yield self._made(block.slice(start, min(block.rows, start + self._step)), worker)

    def _made(self, block: Block, worker: int) -> Block:
        frame = self.runtime.frame(worker, self._kernel)
        vectors = self._kernel.run(frame, block)
        width = len(self.schema)
        # Of the new records end to end, those of one old record lie `block.rows` apart.
        order = np.arange(block.rows * self._count).reshape(self._count, -1).T.ravel()
        columns: dict[str, ColumnData] = {}
        valid: dict[str, Array] = {}
        for i, (name, kind) in enumerate(self.schema):
            own = vectors[i::width]
            columns[name] = taken(concatenated([v for v, _ in own], kind), order)
            if any(m is not None for _, m in own):
                masks = [np.ones(block.rows, bool) if m is None else m for _, m in own]
                valid[name] = np.concatenate(masks)[order]
        return Block(len(order), columns, valid)


class CallBatchesPipeline(Over):
    """A function of whole blocks; it is not called where there is no record."""

    def __init__(self, node: pp.CallBatches, source: Pipeline, runtime: Runtime) -> None:
        super().__init__(node.schema, source, runtime)
        self._node = node
        self._bound: dict[int, tuple[int, Callable[..., Any]]] = {}

    def _function(self, worker: int) -> Callable[..., Any]:
        """A thread's own copy of the function, with the present values in its slots."""
        version, function = self._bound.get(worker, (-1, None))
        if function is None or version != self.runtime.version:
            values = [python_value(present(s, self.runtime)) for s in self._node.slots]
            function = bind(self._node.function, values)
            self._bound[worker] = self.runtime.version, function
        return function

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        node = self._node
        for block in self.source.blocks(partition, worker):
            if block.rows:
                function = self._function(worker)
                yield from call_with_table(
                    node.function, function, block, self.source.schema, node.schema
                )
