"""`so.cogroup`: the groups of several tables by one key, side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.errors import Location, PlanError, SchemaError, user_location
from scalops.algebra.expressions import Column
from scalops.algebra.operators import Operator
from scalops.algebra.schema import Schema
from scalops.branches import Branch
from scalops.group_lifting import Lifting, Root
from scalops.group_maps import tokens, trace_group
from scalops.grouping import NoMethod, apart
from scalops.lazy import name_methods

if TYPE_CHECKING:
    from scalops.table import Table

_MAKES = "map(lambda key, a_rows, b_rows: {...}) makes a table of a cogroup"
_MOST = 8
_WORD = "cogroup"


def cogroup(*branches: Branch) -> Cogroup:
    """The groups of 2 to 8 tables by one key: `so.cogroup(a.by("k"), b.by("j"))`.

    It holds every key of any branch, by first appearance, branch after branch; `.inner()` on a
    branch keeps only its keys. Nulls are one key.
    """
    location = user_location()
    for i, branch in enumerate(branches):
        if not isinstance(branch, Branch):
            raise SchemaError(
                f"argument {i + 1} of so.cogroup is a {type(branch).__name__}; expected a table"
                " with its key",
                location=location,
                hint='write so.cogroup(a.by("k"), b.by("k"))',
            )
    if not 2 <= len(branches) <= _MOST:
        raise PlanError(
            f"so.cogroup of {len(branches)} branch{'' if len(branches) == 1 else 'es'}; expected"
            f" 2 to {_MOST}",
            location=location,
            hint='one table: group_by("k").map(...)'
            if len(branches) == 1
            else "cogroup some of them first, and the others with what that gives"
            if branches
            else 'write so.cogroup(a.by("k"), b.by("k"))',
        )
    return Cogroup(branches, location)


class Cogroup:
    """The groups of several tables: `map` makes a table of them."""

    __slots__ = ("_branches", "_keys", "_location")
    __hash__ = None  # type: ignore[assignment]
    _value_hint = _MAKES
    _capture_refusal = "it reads a cogroup, which has no records before the plan runs"

    def __init__(self, branches: tuple[Branch, ...], location: Location | None) -> None:
        self._branches, self._location = branches, location
        self._keys = _common_keys(branches, location)

    def __repr__(self) -> str:
        return f"Cogroup(by {', '.join(self._keys.columns)}, of {len(self._branches)} tables)"

    def map(self, f: Callable[..., Any]) -> Table:
        """One record per key: what `f(key, rows, rows, ...)` gives, with rows of each branch.

        `key` is the bare key, of several a record; of a branch that has not the key the rows are
        empty. The function is traced, and done to all keys at once.
        """
        location = user_location()
        roots: dict[int, Root] = {}
        rows: list[Table] = []
        for branch in self._branches:
            token = next(tokens)
            source, keys = apart(branch.table.plan, branch.keys, branch.origins, location)
            roots[token] = Root(source, keys)
            rows.append(branch.table._made(rel.GroupRows(branch.table.plan, token)))
        everyone = self._every_key(list(roots.values()))
        lifting = Lifting(next(tokens), self._keys, _WORD, location, roots, everyone)
        return rows[0]._made(trace_group(f, rows, lifting, (), _WORD))

    def _every_key(self, roots: list[Root]) -> Operator:
        """The keys of all branches by first appearance, without those an inner branch lacks."""
        names = self._keys.names
        parts = [
            rel.GroupAggregate(
                root.source, tuple(zip(names, root.keys, strict=True)), (),
                label=_WORD, origin=branch.origins, location=branch.location or self._location,
            )
            for root, branch in zip(roots, self._branches, strict=True)
        ]  # fmt: skip
        inner = [p for p, b in zip(parts, self._branches, strict=True) if b.is_inner]
        plan: Operator
        if inner and inner[0] is parts[0]:
            plan, *inner = inner  # its keys are the first to appear
        else:
            every = op.Union(tuple(parts), label=_WORD, location=self._location)
            plan = op.Distinct(every, label=_WORD, location=self._location)
        keys = tuple(Column(n, k) for n, k in self._keys)
        outputs = tuple((n, rel.LEFT, n) for n in names)
        for part in inner:
            plan = rel.Join(
                plan, part, keys, keys, "semi", outputs, nulls_equal=True,
                label=_WORD, location=self._location,
            )  # fmt: skip
        return plan

    # What a cogroup is not.

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        raise NoMethod(f"a cogroup has no {name!r}", location=user_location(), hint=_MAKES)

    def _no_table(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(_MAKES)

    __iter__ = __len__ = __getitem__ = __bool__ = __array__ = __array_ufunc__ = _no_table


def _common_keys(branches: tuple[Branch, ...], location: Location | None) -> Schema:
    """Names of the first branch's keys and their types; SchemaError where they differ."""
    first = branches[0]
    counts = [len(b.keys) for b in branches]
    if len(set(counts)) > 1:
        raise SchemaError(
            f"the branches of so.cogroup have {counts} keys; expected as many of each",
            location=location,
        )
    kinds = [k.type.strong() for k in first.keys]
    for i, branch in enumerate(branches):
        for name, own, key, kind in zip(first.names, branch.names, branch.keys, kinds, strict=True):
            if key.type.strong() != kind:
                raise SchemaError(
                    f"so.cogroup: the key {name!r} is {kind} in branch 1 and {own!r} is"
                    f" {key.type.strong()} in branch {i + 1}",
                    location=location,
                    hint='convert one: .by(lambda r: so.cast(r.k, "int64"))',
                )
    return Schema(tuple(zip(first.names, kinds, strict=True)))


name_methods("Cogroup", Cogroup)
