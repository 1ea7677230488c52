"""Tables of a loop's state as bytes of a checkpoint: an Arrow IPC stream of their blocks."""

from __future__ import annotations

import pyarrow as pa

from scalops.algebra.schema import Schema
from scalops.engine.outcome import StateRows
from scalops.engine.storage.arrow import block_of, to_arrow, to_column


def encode_rows(rows: StateRows) -> bytes:
    """The records; columns are known by their place."""
    sink = pa.BufferOutputStream()
    batches = [
        pa.RecordBatch.from_arrays(
            [to_arrow(b.columns[n], b.valid.get(n), k) for n, k in rows.schema],
            names=[str(i) for i in range(len(rows.schema))],
        )
        for b in rows.blocks
        if b.rows
    ]
    if batches:
        with pa.ipc.new_stream(sink, batches[0].schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def decode_rows(content: bytes, schema: Schema) -> StateRows:
    """The records that were encoded."""
    blocks = []
    if content:
        with pa.ipc.open_stream(content) as reader:
            for batch in reader:
                columns = {
                    n: to_column(batch.column(i), k, f"column {n!r} of the checkpoint")
                    for i, (n, k) in enumerate(schema)
                }
                blocks.append(block_of(columns, batch.num_rows))
    return StateRows(schema, [blocks])
