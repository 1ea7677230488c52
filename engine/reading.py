"""How many records the stages of a loop have read, as far as that is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from scalops.algebra.tree import find
from scalops.engine import physical_plan as pp
from scalops.engine.backends import TableInfo


class RowsRead:
    """Counts runs of stages, and makes records of them when it is asked."""

    def __init__(self, plan: pp.PhysicalPlan) -> None:
        self._plan = plan
        self._runs: Counter[int] = Counter()
        self._of_loops: dict[int, tuple[int, ...]] = {}

    def have_run(self, stages: Iterable[int]) -> None:
        """Count one run of each of the stages."""
        self._runs.update(stages)

    def since_asked(self, loop: pp.Iterate, infos: Mapping[int, TableInfo]) -> int | None:
        """The records that a loop's stages have read since the last time; None if none is known.

        A stage reads the records of the table on which it rests; `infos` tell of stored ones.
        """
        if loop.index not in self._of_loops:
            steps = find((*loop.test, *loop.body), pp.RunStage)
            self._of_loops[loop.index] = tuple(dict.fromkeys(s.stage for s in steps))
        counted = [(s, self._runs.pop(s, 0)) for s in self._of_loops[loop.index]]
        rows = sum(n * rows_of(self._plan.stages[s].source, infos) for s, n in counted if n)
        return rows or None


def rows_of(table: pp.PhysicalTable, infos: Mapping[int, TableInfo]) -> int:
    """The records of the table on which one rests; 0 where nobody has counted them."""
    base = pp.base(table)
    match base:
        case pp.TableScan(source=source):
            return int(source.likely_rows if source.rows is None else source.rows)
        case pp.StoredTable(number=number):
            return infos[number].rows if number in infos else 0
        case pp.Concatenate(sources=sources):
            return sum(rows_of(s, infos) for s in sources)
    return 0
