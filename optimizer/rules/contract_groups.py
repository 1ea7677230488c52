"""Arrays made of groups by a small integer key are folds by that key, without groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from scalops.algebra import operators as op
from scalops.algebra.definitions import as_column
from scalops.algebra.expressions import Column, Subquery
from scalops.algebra.folds import Fold
from scalops.algebra.relations import GroupAggregate, Join
from scalops.algebra.segment_folds import PREFIX, Segment
from scalops.algebra.tree import Node, find, substitute, walk
from scalops.optimizer.column_invariance import ColumnInvariance
from scalops.optimizer.naming import fresh_name

# Version 1 of numeric constants. Beyond either, a leaf's array by key would be wide beside what
# there is to fold; groups take as much memory as there are keys in the table.
SEGMENT_KEYS = 65_536
SEGMENT_BYTES = 1 << 24

_KINDS = ("count", "sum", "add", "mean", "minimum", "maximum")
_Plan = dict[Node, Node]


def contract_groups(node: Node) -> Node | None:
    """to_array(GroupAggregate(T, k, f(x)), f, index=k, size=n) -> Aggregate(T, f(x) by k < n).

    Sound because to_array places each group at its key: entry i is the fold of the records whose
    key is i, and a key that is null or outside is to_array's error either way. Counts, sums,
    means, minima and maxima of numbers or vectors, of one integer key. Up to rounding: both add
    floats up in float64, but here in table order within a leaf. Where several groups have no
    value (the least of nulls alone), the error names the least key.

    No table of groups is made, no key is looked for, and the folds are a pass over T that others
    over T can join. Not where anything else reads the groups, so that they are made anyway; not
    for more than `SEGMENT_KEYS` keys or arrays of more than `SEGMENT_BYTES`; not for other folds,
    sparse extremes, or what is computed of several folds of a group; and not for groups of a join
    whose keys the loop around leaves as they are: they are found once, and what the join gathers
    is added up by one sparse product (`index_joins`).
    """
    if not isinstance(node, op.Job):
        return None
    groups = [g for g in find((node,), GroupAggregate) if len(g.keys) == 1]
    if not groups:
        return None
    readers = _readers(node)
    for group in groups:
        mapping = _contracted(group, readers)
        if mapping and not _found_once(node, group):
            return substitute(node, mapping)
    return None


_Readers = Mapping[Node, list[Node]]


def _readers(job: op.Job) -> _Readers:
    readers: dict[Node, list[Node]] = {}
    for node in walk(job):
        for child in dict.fromkeys(node.children):
            readers.setdefault(child, []).append(node)
    return readers


def _contracted(group: GroupAggregate, readers: _Readers) -> _Plan | None:
    """What the values of all arrays made of the group become; None where it stays."""
    mapping: _Plan = {}
    for reader, names in _paths(group, readers):
        folds = None
        if isinstance(reader, op.Aggregate):
            folds = _folds(reader, group, names)
        if folds is None:
            return None
        assert isinstance(reader, op.Aggregate)
        made = op.Aggregate(group.source, tuple(folds.values()), location=reader.location)
        for value in readers.get(reader, ()):
            if not isinstance(value, Subquery):
                return None
            new = Subquery(made, folds[value.name].name, location=value.location)
            mapping[value] = new
    return mapping


def _paths(group: GroupAggregate, readers: _Readers) -> Iterator[tuple[Node, dict[str, str]]]:
    """What reads the group, with the group's column behind each one that it sees.

    Caches and projections that only choose and rename are seen through.
    """
    waiting: list[tuple[Node, dict[str, str]]] = [(group, {n: n for n in group.schema.names})]
    while waiting:
        table, names = waiting.pop()
        for reader in readers.get(table, ()):
            match reader:
                case op.Cache(key=""):
                    waiting.append((reader, names))
                case op.Project(source=source, outputs=outputs) if source == table and all(
                    isinstance(e, Column) for _, e in outputs
                ):
                    chosen = {n: names[e.name] for n, e in outputs if isinstance(e, Column)}
                    waiting.append((reader, chosen))
                case _:
                    yield reader, names


def _folds(
    reader: op.Aggregate, group: GroupAggregate, names: Mapping[str, str]
) -> dict[str, Fold] | None:
    """The folds by key for each of the reader's, by its name; None where one has none."""
    ((key_name, key),) = group.keys
    of_group = {f.name: f for f in group.folds}
    made: dict[str, Fold] = {}
    taken: set[str] = set()
    for fold in reader.folds:
        if fold.kind != "to_array":
            return None
        index, value = fold.arguments
        if not (isinstance(index, Column) and isinstance(value, Column)):
            return None
        own = of_group.get(names[value.name])
        if names[index.name] != key_name or own is None or not _is_contracted(own):
            return None
        name = own.name if fold.output == 0 else fold.name
        name = fresh_name(name, taken) if name in taken else name
        taken.add(name)
        segment = Segment(
            name,
            f"{PREFIX}{own.kind}",
            (as_column(key), *(as_column(a) for a in own.arguments)),
            output=fold.output,
            size=dict(fold.parameters)["size"],
            key=index.name,
            location=fold.location,
        )
        if segment.type != fold.type or not fits(segment.size, segment.type.bytes):
            return None
        made[fold.name] = segment
    return made


def _is_contracted(fold: Fold) -> bool:
    if type(fold) is not Fold or fold.kind not in _KINDS or fold.initial is not None:
        return False
    if fold.kind == "count":
        return True
    (kind,) = (a.type for a in fold.arguments)
    if not kind.is_numeric or (fold.kind == "add" and kind.name == "bool"):
        return False
    return fold.kind in ("sum", "mean") or not kind.is_sparse


def fits(size: int, array_bytes: int) -> bool:
    """Whether an array by key is small enough to be every leaf's partial."""
    return size <= SEGMENT_KEYS and array_bytes <= SEGMENT_BYTES


def _found_once(job: op.Job, group: GroupAggregate) -> bool:
    """Whether the group's records come of a join, and a loop leaves its keys as they are."""
    source = group.source
    while isinstance(source, (op.Project, op.Filter)):
        source = source.source
    if not isinstance(source, Join):
        return False
    return any(group in ColumnInvariance(loop).indexable() for loop in find((job,), op.Loop))
