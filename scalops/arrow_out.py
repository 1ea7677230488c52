"""Tables as streams of Arrow batches: for Polars, DuckDB, pandas and whatever else reads them.

The plan is run as a whole before the first batch is handed out, so that its errors are raised
where the stream was asked for, and whoever reads it may run other plans meanwhile. What the memory
has no room for waits in a spill file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from scalops.algebra.operators import Job, Scan
from scalops.algebra.tree import find
from scalops.engine.blocks import Block
from scalops.engine.free_memory import usable_memory
from scalops.engine.memory import MemoryBudget
from scalops.engine.pipelines.base import own_bytes, root_of
from scalops.engine.spill import Kept, SpilledBlocks
from scalops.engine.storage import block_to_batch, schema_to_arrow
from scalops.table_refusals import FOLD_FIRST
from scalops.tracing import refuse_to_run

if TYPE_CHECKING:
    from scalops.table import Table

# Of the memory for plans: results wait beside what other plans hold.
_SHARE = 4
_OWNER = "a table's batches"


def batches_of(table: Table) -> pa.RecordBatchReader:
    """Run the plan; a reader of its records, which share memory with what they were computed in.

    Each block of the plan is a batch. Raises: what running the plan raises.
    """
    from scalops.session import current_session

    refuse_to_run("the records of a table", f"a stream of them runs nothing here: {FOLD_FIRST}")
    session = current_session()
    limit = (session.options.memory or usable_memory()) // _SHARE
    waiting = _Waiting(table, MemoryBudget(limit, session.options.spill))
    session.run((table.plan,), begin=waiting.begin)
    schema = schema_to_arrow(table.schema)
    return pa.RecordBatchReader.from_batches(schema, waiting.batches())


class _Waiting:
    """A table's blocks between their computation and whoever reads them."""

    def __init__(self, table: Table, budget: MemoryBudget) -> None:
        self._schema, self._budget = table.schema, budget
        self._resident = _resident(table)
        self._blocks = SpilledBlocks(budget, _OWNER, self._schema)
        self._kept: list[Kept] = []

    def begin(self) -> Callable[[Iterable[Block]], None]:
        """What takes all blocks, from the first on."""
        self._kept.clear()
        self._budget.release(_OWNER)
        return self._take

    def _take(self, blocks: Iterable[Block]) -> None:
        for block in blocks:
            is_own = own_bytes(block, self._resident) > 0
            self._kept.append(self._blocks.add(block) if is_own else block)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All of them, once; none is kept."""
        self._kept.reverse()
        while self._kept:
            yield block_to_batch(self._blocks.get(self._kept.pop()), self._schema)


def _resident(table: Table) -> frozenset[int]:
    """The arrays that the table's sources hold anyway."""
    found = set()
    for scan in find((Job((table.plan,)),), Scan):
        columns = getattr(scan.source, "columns", None)
        if isinstance(columns, Mapping):
            arrays = (c for c in columns.values() if isinstance(c, np.ndarray))
            found |= {id(root_of(array)) for array in arrays}
    return frozenset(found)
