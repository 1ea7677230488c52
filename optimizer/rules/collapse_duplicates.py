"""Records that a loop cannot tell apart are one record with a weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.dtypes import INT64, ArrayType
from scalops.algebra.folds import Fold
from scalops.algebra.functions import function
from scalops.algebra.relations import GroupAggregate
from scalops.algebra.tree import Node, find, substitute, transform, walk
from scalops.optimizer import cost
from scalops.optimizer.cardinality import Estimates
from scalops.optimizer.duplicates import DISTINCT_RECORDS, Distinct, distinct
from scalops.optimizer.invariance import Tokens, free_tokens
from scalops.optimizer.naming import fresh_name
from scalops.optimizer.rules.merge_filters import may_raise
from scalops.optimizer.weights import Weighed, weighed

_FEWER = 4.0  # times fewer distinct values of expressions than of columns: then those are computed

_Reader = op.Aggregate | GroupAggregate


def collapse_duplicates(node: Node) -> Node | None:
    """Loop(.. Aggregate(Cache(T), f) ..) -> Loop(.. Aggregate(Cache(D), f·w) ..), with
    D = GroupAggregate(T, what f reads of T, w = count).

    T stays the same in the loop; records in which equal values are read of it contribute equally,
    so that one of them may stand for all, w times: see `weights.py`. Filters between the two, and
    groups, read D likewise. What is read is columns or, where they have far fewer values, the
    largest expressions over them that the loop leaves alone. D comes by first appearance, so that
    groups of it do too. 0.0 and -0.0, one key of a group-by, are told apart by a key of their
    signs. Sums of integers are the same, those of floats up to rounding: a numeric decision, taken
    from the program, the source's metadata and some of its records, always the same ones. Where
    they mislead, D has more records than was thought.

    Not where a fold depends on the order of the records or on their number in another way: `first`,
    `last`, the record of an `argmin`, quantiles, variances, products, lists, arrays by index,
    aggregates and reduces of the user's; nor of float16. Not where an opaque function, a list or a
    sparse vector is read. Not where D may have more than an eighth of T's records, as of continuous
    numbers, or more than groups may take of the memory; where nothing tells how many it has, where
    T is small, or where finding the groups once costs more than the iterations save.

    Each loop decides for its own folds, so that it gives the same bits alone and in company.
    """
    if not isinstance(node, op.Job):
        return None
    mapping = _Job(node).collapsed()
    if not mapping:
        return None
    made = substitute(node, mapping)
    while (narrower := _without_idle_cache(made)) is not None:
        made = narrower
    return made


def _without_idle_cache(job: op.Job) -> op.Job | None:
    """The job where a table of which only distinct records are read is not held itself."""
    readers: dict[op.Cache, list[Node]] = {}
    for node in walk(job):
        for child in dict.fromkeys(node.children):
            if isinstance(child, op.Cache) and not child.key:
                readers.setdefault(child, []).append(node)
    for cache, found in readers.items():
        match found:
            case [GroupAggregate(label=label) as groups] if label == DISTINCT_RECORDS:
                return substitute(job, {groups: replace(groups, source=cache.source)})
    return None


@dataclass(frozen=True)
class _Keys:
    """What is read of a cached table, each under the name that it has among distinct records."""

    names: Mapping[ex.Expression, str]

    def over(self, e: ex.Expression) -> ex.Expression | None:
        """The expression over distinct records; None where it reads what they do not have."""
        held: dict[Node, Node] = {k: ex.Reduced("", k.type.strong()) for k in self.names}
        return None if ex.columns([substitute(e, held, ex.in_record)]) else self.read(e)

    def read(self, e: ex.Expression) -> ex.Expression:
        """The expression over distinct records, which have what it reads."""
        mapping: dict[Node, Node] = {
            k: ex.Column(n, k.type.strong()) for k, n in self.names.items()
        }
        return substitute(e, mapping, ex.in_record)


class _Job:
    """A job whose loops are looked at, each by itself: it gives the same alone and in company."""

    def __init__(self, job: op.Job) -> None:
        self._job = job
        self._loops = {loop.token: loop for loop in find((job,), op.Loop)}
        self.free: dict[Node, Tokens] = free_tokens(job) if self._loops else {}

    @cached_property
    def _estimates(self) -> Estimates:
        return Estimates(self._job)

    def collapsed(self) -> dict[Node, Node]:
        """The outermost loops that read distinct records from now on, as they are then."""
        mapping: dict[Node, Node] = {}
        for loop in self._loops.values():
            if not self.free[loop]:
                made = self._of(loop)
                if made != loop:
                    mapping[loop] = made
        return mapping

    def _is_inside(self, node: Node) -> bool:
        """Whether it is part of the loop around; a loop that no other one changes is not."""
        return not isinstance(node, op.Loop) or bool(self.free[node])

    def _of(self, loop: op.Loop) -> op.Loop:
        """The loop with distinct records of the tables whose folds pay for them."""
        readers: dict[op.Cache, list[_Reader]] = {}
        parts = [p for p in (loop.body, loop.condition) if p is not None]
        for node in walk(*parts, enter=self._is_inside):
            if isinstance(node, _Reader) and (cache := _cache_of(node)) is not None:
                readers.setdefault(cache, []).append(node)
        for cache, found in readers.items():
            keys = self._chosen(cache, found)
            if keys is not None:
                made = _Rewriting(cache, keys)
                condition = loop.condition
                if condition is not None:
                    condition = transform(condition, made, self._is_still_inside)
                body = transform(loop.body, made, self._is_still_inside)
                loop = replace(loop, body=body, condition=condition)
        return loop

    def _is_still_inside(self, node: Node) -> bool:
        return node not in self.free or self._is_inside(node)

    def _chosen(self, cache: op.Cache, readers: list[_Reader]) -> _Keys | None:
        """What distinct records of the table hold for the folds of a loop that pay for them."""
        rows = self._estimates.of(cache).rows
        if rows < cost.COLLAPSED_ROWS.value:
            return None
        varying = [r for r in readers if self.free[r] - self.free[cache]]
        alone = [(r, self._keys(cache, [r], rows)) for r in varying]
        paying = [(r, keys) for r, keys in alone if keys is not None]
        if len(paying) < 2:
            return paying[0][1] if paying else None
        # One table for all of them, where that pays too.
        return self._keys(cache, [r for r, _ in paying], rows) or paying[0][1]

    def _keys(self, cache: op.Cache, readers: list[_Reader], rows: float) -> _Keys | None:
        """What distinct records have to hold for all of these readers, if that pays."""
        roots = [e for r in readers for e in _expressions(r)]
        if any(isinstance(e, ex.Opaque | ex.DriverCall | ex.Rows) for e in ex.within(roots)):
            return None
        columns = [c for c in ex.columns(roots) if c.record == 0]
        largest = self._largest(cache, readers)
        forms = [_named(cache, columns), _named(cache, largest)]
        spared = sum(self._seconds(r, cache, forms) for r in readers)
        plain = ex.columns_read(e for e in largest if isinstance(e, ex.Column))
        values = [
            e for e in largest if isinstance(e, ex.Column) or not ex.columns_read([e]) <= plain
        ]
        by_column = self._paying(cache, readers, rows, spared, columns)
        by_value = None
        if any(not isinstance(e, ex.Column) for e in values):
            by_value = self._paying(cache, readers, rows, spared, values)
        if by_column is None or by_value is None:
            found = by_column or by_value
        else:
            fewer = by_column[1].likely > _FEWER * by_value[1].likely
            found = by_value if fewer else by_column
        return None if found is None else found[0]

    def _largest(self, cache: op.Cache, readers: list[_Reader]) -> list[ex.Expression]:
        """The largest expressions over columns that the loop leaves alone, and such columns."""
        found: dict[ex.Expression, None] = {}
        own = self.free[cache]
        for reader in readers:
            filtered = reader.source != cache
            stack: list[ex.Expression] = _expressions(reader)
            while stack:
                e = stack.pop()
                if e in found or not ex.columns([e]):
                    continue
                computed = isinstance(e, ex.Call | ex.Item) and self.free[e] <= own
                if isinstance(e, ex.Column) or (
                    computed and _may_be_key(e) and not (filtered and may_raise(e))
                ):
                    found[e] = None
                else:
                    stack.extend(c for c in e.children if isinstance(c, ex.Expression))
        return list(found)

    def _paying(
        self,
        cache: op.Cache,
        readers: list[_Reader],
        rows: float,
        spared: float,
        read: Sequence[ex.Expression],
    ) -> tuple[_Keys, Distinct] | None:
        """What distinct records hold and how many there are, where they save what they cost.

        `spared`: seconds that the iterations take for one record.
        """
        if not read or not all(map(_may_be_key, read)):
            return None
        keys = _named(cache, read)
        if not all(_is_weighable(r, keys) for r in readers):
            return None
        found = distinct(cache, rows, list(keys.names))
        if found is None or found.most * cost.SAME_RECORDS.value > rows:
            return None
        width = sum(k.type.bytes for k in keys.names)
        if found.most * (width + INT64.bytes) > cost.COLLAPSED_BYTES.value:
            return None
        once = cost.compute_cost(*keys.names) + cost.read_cost(width)
        groups = cost.GROUP.value * sum(max(1, k.type.bytes // 8) for k in keys.names)
        pays = rows * (once.seconds + groups) < (rows - found.most) * spared
        return (keys, found) if pays else None

    def _seconds(self, reader: _Reader, cache: op.Cache, forms: Sequence[_Keys]) -> float:
        """What a record costs in all iterations, read as columns or with what can be hoisted."""
        each = []
        for form in forms:
            own = [form.read(e) for e in _expressions(reader)]
            width = sum(c.type.bytes for c in ex.columns(own))
            each.append((cost.compute_cost(*own) + cost.read_cost(width)).seconds)
        return self._iterations(reader, cache) * min(each)

    def _iterations(self, reader: op.Operator, cache: op.Cache) -> float:
        """How often it is computed, of what the loops say that it varies with."""
        most = 1.0
        for token in self.free[reader] - self.free[cache]:
            loop = self._loops[token]
            known = None if loop.range is None else loop.range.known
            times = cost.ITERATIONS.value if known is None else float(len(known))
            if loop.max_iterations is not None:
                times = min(times, float(loop.max_iterations))
            most = max(most, times)
        return most


def _named(cache: op.Cache, keys: Sequence[ex.Expression]) -> _Keys:
    taken = set(cache.schema.names)
    return _Keys({k: k.name if isinstance(k, ex.Column) else fresh_name("v", taken) for k in keys})


def _may_be_key(e: ex.Expression) -> bool:
    kind = e.any_type
    if not isinstance(kind, ArrayType) or kind.weak:
        return False
    return kind.is_plain or kind.is_string


def _chain(reader: _Reader) -> Iterator[op.Operator]:
    """The filters below a fold, and the table below them."""
    table = reader.source
    while isinstance(table, op.Filter):
        yield table
        table = table.source
    yield table


def _cache_of(reader: _Reader) -> op.Cache | None:
    """The cached table that is folded, unless it has distinct records already."""
    *_, table = _chain(reader)
    if not isinstance(table, op.Cache) or reader.label == DISTINCT_RECORDS:
        return None
    below = table.source
    return None if isinstance(below, GroupAggregate) and below.label == DISTINCT_RECORDS else table


def _expressions(reader: _Reader) -> list[ex.Expression]:
    """All that a fold, its keys and the filters below it read of a record."""
    found = [a for f in reader.folds for a in f.arguments]
    if isinstance(reader, GroupAggregate):
        found.extend(e for _, e in reader.keys)
    found.extend(t.predicate for t in _chain(reader) if isinstance(t, op.Filter))
    return found


@dataclass(frozen=True)
class _Made:
    """A fold over distinct records, and what its results are made of."""

    reader: _Reader
    results: Mapping[str, Weighed]


def _results(reader: _Reader, keys: _Keys, weight: str) -> dict[str, Weighed] | None:
    """The folds over distinct records; None where one cannot be had of them."""
    taken = {f.name for f in reader.folds}
    results: dict[str, Weighed] = {}
    for fold in reader.folds:
        over = [made for a in fold.arguments if (made := keys.over(a)) is not None]
        if len(over) < len(fold.arguments):
            return None
        moved = replace(fold, arguments=tuple(over))
        own = weighed(moved, ex.Column(weight, INT64), taken)
        if own is None:
            return None
        results[fold.name] = own
    return results


def _is_weighable(reader: _Reader, keys: _Keys) -> bool:
    """Whether it can read distinct records that hold these."""
    readable = all(keys.over(e) is not None for e in _expressions(reader))
    return readable and _results(reader, keys, "") is not None


def _over_distinct(reader: _Reader, table: op.Operator, keys: _Keys, weight: str) -> _Made | None:
    """The fold over the distinct records in `table`, where it can read them."""
    results = _results(reader, keys, weight) if _is_weighable(reader, keys) else None
    if results is None:
        return None
    for below in reversed(list(_chain(reader))):
        if isinstance(below, op.Filter):
            table = op.Filter(table, keys.read(below.predicate), location=below.location)
    folds = tuple(f for made in results.values() for f in made.folds)
    if isinstance(reader, op.Aggregate):
        return _Made(replace(reader, source=table, folds=folds), results)
    by = tuple((n, keys.read(e)) for n, e in reader.keys)
    return _Made(replace(reader, source=table, keys=by, folds=folds), results)


class _Rewriting:
    """All folds of a cached table that can read its distinct records do."""

    def __init__(self, cache: op.Cache, keys: _Keys) -> None:
        self._cache, self._keys = cache, keys
        taken = {*keys.names.values(), *cache.schema.names}
        self._weight = fresh_name("weight", taken) if "weight" in taken else "weight"
        self._known: dict[_Reader, _Made | None] = {}
        by = [(name, e) for e, name in keys.names.items()]
        for e in keys.names:
            if e.type.is_plain and e.type.numpy.kind == "f":  # where -0.0 is no 0.0
                by.append((fresh_name("sign", taken), ex.call(function("signbit"), e)))
        count = Fold(self._weight, "count", (), location=cache.location)
        groups = GroupAggregate(
            cache, tuple(by), (count,), label=DISTINCT_RECORDS, location=cache.location
        )
        self._table = op.Cache(groups, location=cache.location)

    def __call__(self, node: Node) -> Node:
        """The node over distinct records, its children being so already."""
        if isinstance(node, ex.Subquery):
            made = self._made(node.source)
            if made is None:
                return node
            assert isinstance(made.reader, op.Aggregate)
            source = made.reader
            return made.results[node.name].result(lambda name: ex.Subquery(source, name))
        if isinstance(node, GroupAggregate) and (made := self._made(node)) is not None:
            return self._as_before(node, made)
        return node

    def _as_before(self, node: GroupAggregate, made: _Made) -> op.Operator:
        """Groups of distinct records with the columns of the groups before."""
        groups = made.reader
        kinds = groups.schema
        outputs: list[op.Named] = [(n, ex.Column(n, kinds[n])) for n, _ in node.keys]
        for fold in node.folds:
            result = made.results[fold.name].result(lambda name: ex.Column(name, kinds[name]))
            outputs.append((fold.name, result))
        return op.Project(groups, tuple(outputs), location=node.location)

    def _made(self, reader: _Reader) -> _Made | None:
        if reader not in self._known:
            cache = _cache_of(reader)
            own = cache is not None and cache == self._cache
            self._known[reader] = (
                _over_distinct(reader, self._table, self._keys, self._weight) if own else None
            )
        return self._known[reader]
