"""A table that several passes of one job need is read or computed once."""

from __future__ import annotations

from scalops.algebra import operators as op
from scalops.algebra.expressions import Expression, Opaque
from scalops.algebra.relations import GroupAggregate, GroupApply, Join
from scalops.algebra.tree import Node, transform, walk, with_children
from scalops.optimizer.invariance import free_tokens, is_table


def cache_shared(node: Node) -> Node | None:
    """Job(f(T), g(T)) -> Job(f(Cache(T)), g(Cache(T))) for a dear table T of two passes or more.

    Also where a loop holds T already: its other readers read that cache. Sound because T has the
    same records for each. Dear is what has a file to decode, an opaque function to call or
    records to join. Folds that do not need each other's results will be one pass, and a limit reads
    a few records: they alone share nothing. Not what varies with a loop, and, unless it joins, not
    what lies below a cache: the loop's own cache, read in every iteration, needs the memory more.
    """
    if not isinstance(node, op.Job):
        return None
    readers = _readers(node)
    free = free_tokens(node)
    caches = {n.source: n for n in readers if isinstance(n, op.Cache)}
    below = set(walk(*caches)) if caches else set()
    for table, found in readers.items():
        if free[table] or isinstance(table, op.Cache):
            continue
        if table in caches:
            if any(reader != caches[table] for reader in found):
                return _reading(node, table, caches[table])
        elif _passes(found, readers) > 1 and (
            _joins(table) or (table not in below and _is_dear(table))
        ):
            return _reading(node, table, op.Cache(table, location=table.location))
    return None


_Readers = dict[op.Operator, list[op.Operator]]


def _readers(job: op.Job) -> _Readers:
    """What reads each table, the largest tables first, so that as much as may be is shared."""
    readers: _Readers = {}
    for node in reversed(list(walk(job))):
        if isinstance(node, op.Operator):
            for child in dict.fromkeys(node.children):
                if is_table(child) and not isinstance(child, op.Aggregate):
                    readers.setdefault(child, []).append(node)  # type: ignore[arg-type]
    return readers


def _passes(found: list[op.Operator], readers: _Readers) -> int:
    """How often a table would be made: the passes of its readers, as far as they are few."""
    folds: list[op.Aggregate] = []
    others = 0
    waiting = list(found)
    while waiting:
        reader = waiting.pop()
        if isinstance(reader, op.Aggregate):
            folds.append(reader)
        elif isinstance(reader, op.Project) and reader in readers:
            waiting.extend(readers[reader])
        elif not isinstance(reader, op.Limit):
            others += 1
    chained = any(a in walk(b) for a in folds for b in folds if a != b)
    return others + (2 if chained else 1 if folds else 0)


def _joins(table: op.Operator) -> bool:
    """Whether making the records again would look for partners again; what groups is stored."""
    return any(isinstance(n, Join) and n.kind != "cross" for n in _until_stored(table))


def _is_dear(table: op.Operator) -> bool:
    """Whether making the records again costs more than reading them from memory."""
    made = _made_again(table)
    files = any(isinstance(n, op.Scan) and not n.source.in_memory for n in made)
    return files or any(isinstance(n, Opaque | op.MapBatches | GroupApply) for n in made)


def _until_stored(table: op.Operator) -> list[op.Operator]:
    """The operators that the records go through since they were last in memory."""
    found: list[op.Operator] = []
    waiting = [table]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, (op.Cache, GroupAggregate, op.Sort, op.Distinct)):
            found.append(node)
            waiting.extend(node.inputs)
    return found


def _made_again(table: op.Operator) -> list[Node]:
    """What making the records again would do: nothing below what the user keeps."""
    found: dict[Node, None] = {}
    waiting: list[Node] = [table]
    while waiting:
        node = waiting.pop()
        if node not in found and not (isinstance(node, op.Cache) and node.key):
            found[node] = None
            waiting.extend(node.children)
    return list(found)


def _reading(job: op.Job, table: op.Operator, cached: op.Cache) -> op.Job:
    """The job with every reader of the table reading the cache."""

    def change(reader: Node) -> Node:
        if reader == cached or isinstance(reader, Expression) or table not in reader.children:
            return reader
        return with_children(reader, {c: c for c in reader.children} | {table: cached})

    return transform(job, change)
