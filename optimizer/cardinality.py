"""Row counts and sizes through the operators."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.expressions import Column, Constant, Expression
from scalops.algebra.tree import Node, find, walk
from scalops.optimizer.cost import BROADCAST_BYTES, SPARSE_ITEMS, Estimate, Provenance
from scalops.optimizer.duplicates import DISTINCT_RECORDS, records_of
from scalops.optimizer.lineage import from_source
from scalops.optimizer.properties import UniqueKeys
from scalops.optimizer.samples import Unknown, distinct_in_range, sample_of, share_in_range
from scalops.optimizer.selectivity import selectivity

# Assumed, where nothing tells.
DISTINCT = 0.5
LIST_ITEMS = 8.0
STATE_ROWS = 1000.0
_ORDER: tuple[Provenance, ...] = ("exact", "measured", "estimated", "assumed")


def estimate(node: Node) -> Estimate:
    """Rows and bytes of a table; exact only where the source's metadata say so."""
    return Estimates(node).of(node)


def small_enough_to_broadcast(side: Estimate) -> bool:
    """Whether one side of a join is rather sent whole to everyone than exchanged by its key."""
    return side.bytes <= BROADCAST_BYTES.value


class Estimates:
    """Rows and bytes of the tables of a plan, each found once.

    A table of a loop's environment is assumed to stay as large as its start.
    """

    def __init__(self, *roots: Node) -> None:
        self._starts = {
            (loop.token, name): table
            for loop in find(roots, op.Loop)
            for name, table in loop.tables
        }
        self._keys = UniqueKeys(*roots)
        self._known: dict[Node, Estimate] = {}

    def of(self, node: Node) -> Estimate:
        """The estimate of a table."""
        if not isinstance(node, op.Operator):
            raise TypeError(type(node).__name__)
        if node not in self._known:
            for n in walk(node, enter=self._is_new_table):
                assert isinstance(n, op.Operator)
                self._known[n] = self._rows(n)
        if node not in self._known:  # a loop or a job: one record of values
            self._known[node] = Estimate(1, node.schema.bytes_per_row, "exact")
        return self._known[node]

    def _is_new_table(self, node: Node) -> bool:
        """Expressions are not entered, nor the bodies of loops."""
        return (
            isinstance(node, op.Operator)
            and not isinstance(node, (op.Loop, op.Job, op.Aggregate, op.Update))
            and node not in self._known
        )

    def _rows(self, node: op.Operator) -> Estimate:
        match node:
            case op.Scan(source=source):
                width = node.schema.bytes_per_row
                if source.rows is not None:
                    return Estimate(source.rows, source.rows * width, "exact")
                rows = source.likely_rows
                return Estimate(rows, rows * width, "estimated")
            case op.Filter(source=below, predicate=predicate):
                inner = self.of(below)
                share, known = selectivity(predicate, lambda parts: self._share(below, parts))
                made = replace(inner, provenance=least_known((inner.provenance, known)))
                return _times(node, share, made)
            case op.Limit(source=source, count=count):
                inner = self.of(source)
                rows = min(inner.rows, count)
                return Estimate(rows, rows * node.schema.bytes_per_row, inner.provenance)
            case op.Slice(source=source):
                return _slice(node, self.of(source))
            case op.Union(sources=sources):
                return _times(node, 1, *map(self.of, sources))
            case op.Distinct(source=source, columns=columns):
                names = columns or source.schema.names
                return self._groups(node, source, [Column(n, source.schema[n]) for n in names])
            case op.Explode(source=source, names=names):
                kind = source.schema[names[0]]
                inner = self.of(source)
                if kind.is_list or kind.is_sparse:
                    items = LIST_ITEMS if kind.is_list else SPARSE_ITEMS
                    return _times(node, items, replace(inner, provenance="assumed"))
                return _times(node, kind.shape[0], inner)
            case op.Expand(source=source, records=records):
                return _times(node, len(records), self.of(source))
            case op.MapBatches(source=source):
                return _times(node, 1, replace(self.of(source), provenance="assumed"))
            case (
                op.Project(source=source)
                | op.Cache(source=source)
                | op.Repartition(source=source)
                | op.Sort(source=source)
                | op.WithRowIndex(source=source)
                | rel.Cumulate(source=source)
            ):
                return _times(node, 1, self.of(source))
        return self._related(node)

    def _related(self, node: op.Operator) -> Estimate:
        match node:
            case rel.Join():
                return self._joined(node)
            case rel.GroupAggregate(source=source, label=label) if label == DISTINCT_RECORDS:
                inner = self.of(source)
                made = records_of(node, inner.rows)
                few = inner if made is None else replace(inner, rows=made.likely)
                known = least_known((inner.provenance, "assumed" if made is None else "estimated"))
                return _times(node, 1, replace(few, provenance=known))
            case rel.GroupAggregate(source=source, keys=keys):
                return self._groups(node, source, [e for _, e in keys])
            case rel.GroupApply(groups=groups, single=True):
                return _times(node, 1, self.of(groups))
            case rel.GroupApply(groups=groups):
                return _times(node, 1, replace(self.of(groups), provenance="assumed"))
            case rel.StateTable(loop=loop, name=name):
                start = self._starts.get((loop, name))
                return _assumed(node, STATE_ROWS if start is None else self.of(start).rows)
            case rel.LoopTable(loop=loop, name=name):
                return _assumed(node, self.of(dict(loop.tables)[name]).rows)
        return Estimate(1, node.schema.bytes_per_row, "exact")

    def _share(
        self, source: op.Operator, parts: Sequence[Expression]
    ) -> tuple[float, list[Expression]]:
        """What the parts of a predicate keep together, as far as sources tell, and the others."""
        by_scan: dict[op.Scan, list[Expression]] = {}
        share, unknown = 1.0, []
        for part in parts:
            found = from_source(source, [part], self._starts)
            sample = None if found is None else sample_of(found[0])
            told = None
            if found is not None and sample is None:
                told = share_in_range(found[0], found[1][0])
            elif found is not None and sample is not None:
                try:
                    sample.share(found[1])
                    by_scan.setdefault(found[0], []).extend(found[1])
                    continue
                except Unknown:
                    pass
            if told is None:
                unknown.append(part)
            else:
                share *= told
        for scan, together in by_scan.items():
            sample = sample_of(scan)
            assert sample is not None
            share *= sample.share(together)
        return share, unknown

    def distinct(self, source: op.Operator, keys: Sequence[Expression]) -> tuple[float, Provenance]:
        """How many different values keys have together over a table, and how that is known.

        A table with fewer records than the source that holds them has as many as a choice at
        random would leave (Cardenas 1975).
        """
        rows = self.of(source)
        if self._keys.identifies(source, keys):
            return rows.rows, rows.provenance
        found = from_source(source, keys, self._starts)
        many: float | None = None
        if found is not None:
            scan, over = found
            sample = sample_of(scan)
            try:
                many = distinct_in_range(scan, over) if sample is None else sample.distinct(over)
            except Unknown:
                many = None
            whole = self.of(scan).rows
            if many is not None and 0 < rows.rows < whole and many > 0:
                many *= 1 - (1 - rows.rows / whole) ** (whole / many)
        if many is None:
            return DISTINCT * rows.rows, "assumed"
        return min(many, rows.rows), least_known((rows.provenance, "estimated"))

    def _groups(
        self, node: op.Operator, source: op.Operator, keys: Sequence[Expression]
    ) -> Estimate:
        if not keys:
            return Estimate(1, node.schema.bytes_per_row, "estimated")
        many, known = self.distinct(source, keys)
        return Estimate(many, many * node.schema.bytes_per_row, known)

    def _joined(self, node: rel.Join) -> Estimate:
        """|L|·|R| / max(different keys of L, of R), as if the fewer keys were among the others."""
        left, right = self.of(node.left), self.of(node.right)
        width = node.schema.bytes_per_row
        if node.kind == "cross":
            rows = left.rows * right.rows
            return Estimate(rows, rows * width, least_known((left.provenance, right.provenance)))
        (many, one), (others, other) = (
            self.distinct(node.left, node.left_keys),
            self.distinct(node.right, node.right_keys),
        )
        inner = left.rows * right.rows / max(many, others, 1.0)
        meeting = min(1.0, others / many) if many else 0.0
        rows = {
            "inner": inner,
            "left": max(inner, left.rows),
            "right": max(inner, right.rows),
            "full": max(inner, left.rows, right.rows),
            "semi": left.rows * meeting,
            "anti": left.rows * (1 - meeting),
        }[node.kind]
        known = least_known((left.provenance, right.provenance, one, other, "estimated"))
        return Estimate(rows, rows * width, known)


def _assumed(node: op.Operator, rows: float) -> Estimate:
    return Estimate(rows, rows * node.schema.bytes_per_row, "assumed")


def _times(node: op.Operator, factor: float, *inputs: Estimate) -> Estimate:
    """The inputs' records together, `factor` for each; known as the least known of them is."""
    rows = factor * sum(i.rows for i in inputs)
    known = least_known(i.provenance for i in inputs)
    return Estimate(rows, rows * node.schema.bytes_per_row, known)


def least_known(known: Iterable[Provenance]) -> Provenance:
    """The least certain of them; exact where there is none."""
    return max(known, key=_ORDER.index, default="exact")


def _slice(node: op.Slice, inner: Estimate) -> Estimate:
    """At most `length`; a number that only the run knows is taken as reaching nothing less."""
    start, length = _number(node.start), _number(node.length)
    rows = max(0.0, inner.rows - (start or 0))
    if length is not None:
        rows = min(rows, length)
    sure = start is not None and (length is not None or node.length is None)
    made = replace(inner, rows=rows) if sure else Estimate(rows, 0, "assumed")
    return _times(node, 1, made)


def _number(e: Expression | None) -> int | None:
    return int(e.value) if isinstance(e, Constant) else None
