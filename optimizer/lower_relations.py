"""Lowering of joins, groups, running aggregates and tables in loops: a function for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from scalops.algebra import operators as op
from scalops.algebra.relations import Cumulate, GroupAggregate, GroupApply, Join, LoopTable
from scalops.engine import physical_plan as pp
from scalops.optimizer.lower_group_apply import lower_group_apply
from scalops.optimizer.lower_groups import lower_groups
from scalops.optimizer.lower_indexed import (
    lower_indexed_filter,
    lower_indexed_group,
    lower_indexed_join,
)
from scalops.optimizer.lower_kept_joins import lower_any_join
from scalops.optimizer.lower_running import lower_cumulate
from scalops.optimizer.lower_state import loop_table

if TYPE_CHECKING:
    from scalops.optimizer.lowering import Lowering


RELATIONS: dict[type[op.Operator], Callable[[Lowering, Any], pp.PhysicalTable]] = {
    Cumulate: lower_cumulate,
    LoopTable: loop_table,
    GroupAggregate: lower_groups,
    GroupApply: lower_group_apply,
    Join: lower_any_join,
}

# Of these the form that a loop uses whose keys stay.
INDEXED: dict[type[op.Operator], Callable[[Lowering, Any], pp.PhysicalTable]] = {
    op.Filter: lower_indexed_filter,
    GroupAggregate: lower_indexed_group,
    Join: lower_indexed_join,
}
