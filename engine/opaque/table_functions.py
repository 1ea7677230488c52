"""Functions of tables: a block as a pyarrow.Table, and what comes back as blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from scalops.algebra.captured import Captured
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import ScalopsError, UserFunctionError, text_of
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Block, block_rows
from scalops.engine.opaque.calls import user_error
from scalops.engine.storage.arrow import (
    block_of,
    block_to_batch,
    to_column,
    type_from_arrow,
)
from scalops.engine.storage.arrow_records import flattened
from scalops.engine.storage.arrow_types import field_to_arrow
from scalops.engine.threads import Stopped

Wrong = Callable[[str], UserFunctionError]  # says what a function gives that is not as declared


def call_with_table(
    captured: Captured,
    function: Callable[[pa.Table], Any],
    block: Block,
    schema: Schema,
    declared: Schema,
) -> Iterator[Block]:
    """The records that the function makes of a block, in blocks of their own size.

    `schema` is the block's, `declared` the result's.

    Raises: UserFunctionError where the function raises, and where its result is no table or
    not of the declared columns.
    """
    batch = pa.Table.from_batches([block_to_batch(block, schema)])
    try:
        result = function(batch)
    except (ScalopsError, KeyboardInterrupt, Stopped):
        raise
    except BaseException as error:  # SystemExit too: a function cannot end the program
        position = "the number of records in the batch is"
        raised = user_error(captured, error, block.rows, position)
        if isinstance(error, (AttributeError, TypeError)) and "pyarrow.lib." in text_of(error):
            raised.hint = "the batch is a pyarrow.Table; for pandas write batch.to_pandas()"
        raise raised from error
    yield from blocks_of(captured, result, declared, lambda what: _wrong(captured, what))


def blocks_of(captured: Captured, result: Any, declared: Schema, wrong: Wrong) -> Iterator[Block]:
    """The records of what a function returned; `wrong` makes the error where it is no such table.

    Raises: UserFunctionError.
    """
    table = flattened(_as_table(result, wrong))
    _require_columns(table, declared, wrong)
    yield from _blocks(captured, table, declared)


def _as_table(result: Any, wrong: Wrong) -> pa.Table:
    if isinstance(result, pa.RecordBatch):
        return pa.Table.from_batches([result])
    if hasattr(result, "__arrow_c_stream__"):
        made = pa.table(result)
        # What pandas adds where rows have been left out or moved.
        return made.drop_columns([n for n in made.column_names if n.startswith("__index_level_")])
    raise wrong(
        f"gives a {type(result).__name__}; expected a pyarrow.Table or another thing that has"
        " __arrow_c_stream__"
    )


def _require_columns(table: pa.Table, declared: Schema, wrong: Wrong) -> None:
    found = table.column_names
    if sorted(found) != sorted(declared.names):
        raise wrong(f"gives the columns {found}; expected {list(declared.names)}")
    for name, kind in declared:
        own = table.schema.field(name).type
        if not _fits(own, kind):
            raise wrong(f"gives {own} as {name!r}; expected {kind}")


def _fits(own: pa.DataType, kind: ArrayType) -> bool:
    """Whether a column of this type is one of the declared type; large strings and lists are."""
    return pa.types.is_null(own) or type_from_arrow(own) == kind or _plain(own) == kind


def _plain(own: pa.DataType) -> ArrayType | None:
    types = pa.types
    if types.is_string_view(own) or types.is_large_string(own):
        return type_from_arrow(pa.string())
    if types.is_large_list(own):
        return type_from_arrow(pa.list_(own.value_type))
    return None


def _blocks(captured: Captured, table: pa.Table, declared: Schema) -> Iterator[Block]:
    step = block_rows(declared)
    columns = {}
    for name, kind in declared:
        field = field_to_arrow(name, kind)
        column = table.column(field.name)
        columns[field.name] = column if column.type == field.type else column.cast(field.type)
    for start in range(0, table.num_rows, step):
        rows = min(step, table.num_rows - start)
        made = {
            n: to_column(columns[n].slice(start, rows), kind, f"{n!r} from {captured.name}")
            for n, kind in declared
        }
        yield block_of(made, rows)


def _wrong(captured: Captured, what: str) -> UserFunctionError:
    return UserFunctionError(
        f"{captured.name} of map_batches {what}",
        location=captured.location,
        hint="the second argument of map_batches declares the columns and types of its result",
    )
