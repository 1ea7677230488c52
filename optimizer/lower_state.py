"""Lowering of the tables in a loop's environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalops.algebra import operators as op
from scalops.algebra.relations import LoopTable, StateTable
from scalops.algebra.tree import walk
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.optimizer.column_invariance import ColumnInvariance

if TYPE_CHECKING:
    from scalops.optimizer.lowering import Lowering


class StateTables:
    """The tables of one loop's state while it is lowered: `begin`, `go_on` in its body, `end`."""

    def __init__(self, lowering: Lowering, loop: op.Loop) -> None:
        self._lowering, self._loop = lowering, loop
        self._computed = dict(loop.body.computed) if isinstance(loop.body, op.Update) else {}
        self._invariance = ColumnInvariance(loop) if loop.tables else None
        self._starts: dict[str, tuple[int, bool]] = {}
        self._states: dict[str, pp.StoredTable] = {}

    def begin(self) -> None:
        """Hold the tables that the loop starts with; its body reads the state's from now on."""
        lowering, loop = self._lowering, self._loop
        for name, table in loop.tables:
            number, kept = self._held(table, self._computed.get(name, ()))
            begins_here = lowering.scope_of(table) is lowering.scope_of(loop)
            self._starts[name] = number, kept or not begins_here
        for name, table in loop.tables:
            self._states[name] = _state(lowering.number(), table)
            lowering.states.add(self._states[name].number)
            lowering.keep(StateTable(name, table.schema, loop.token), self._states[name])

    def go_on(self) -> tuple[pp.TableField, ...]:
        """Hold the tables of the next state, in the program of the body; the fields."""
        lowering, loop = self._lowering, self._loop
        if not self._states:
            return ()
        assert isinstance(loop.body, op.Update)
        body = dict(loop.body.tables)
        own = lowering.innermost
        follows: dict[str, tuple[int, bool]] = {}
        # What another is made of comes first, so that it is there to be read.
        order = {node: i for i, node in enumerate(walk(*body.values()))}
        for name, table in sorted(body.items(), key=lambda item: order[item[1]]):
            number, kept = self._held(table, self._computed.get(name, ()), name)
            follows[name] = number, kept or lowering.scope_of(table) is not own
        return tuple(
            pp.TableField(
                name, table.schema, self._starts[name][0], self._states[name].number,
                follows[name][0], (self._starts[name][1], follows[name][1]),
                lowering.stage(self._states[name], pp.Gather()), self._computed.get(name, ()),
            )
            for name, table in loop.tables
        )  # fmt: skip

    def end(self) -> None:
        """The state's tables are the loop's result."""
        for name, table in self._states.items():
            self._lowering.keep(LoopTable(self._loop, name), table)

    def _held(
        self, node: op.Operator, computed: tuple[str, ...], follows: str = ""
    ) -> tuple[int, bool]:
        """The number under which a table is held, and whether it is another state, to be kept.

        Where it `follows` a state's table, whoever else reads it in this iteration reads what is
        held, and its columns that stay, or may, are the state's where they are equal to them.
        """
        lowering = self._lowering
        below = lowering.table(node)
        if isinstance(below, pp.StoredTable) and below.number in lowering.states:
            return below.number, True
        number = lowering.number()
        settled = self._settled(follows)
        sink = pr.HoldState(
            number,
            settled=tuple(n for n in node.schema.names if n in settled),
            state=self._states[follows].number if follows else None,
            computed=computed,
        )
        lowering.run(node, below, sink)
        if follows:
            lowering.keep(node, _state(number, node))
            lowering.states.add(number)
        return number, False

    def _settled(self, name: str) -> frozenset[str]:
        """The columns of a state's table that no iteration changes, or presumably none."""
        if not name or self._invariance is None:
            return frozenset()
        return self._invariance.state_columns(name) | self._invariance.presumed_columns(name)


def _state(number: int, table: op.Operator) -> pp.StoredTable:
    return pp.StoredTable(number, table.schema, pp.Properties(layout="range"))


def loop_table(lowering: Lowering, node: LoopTable) -> pp.PhysicalTable:
    """A table of a loop's result: the loop is lowered, if it is not yet."""
    lowering.loop(node.loop)
    return lowering.table(node)
