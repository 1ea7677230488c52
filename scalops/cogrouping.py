"""`so.cogroup`: the groups of several tables by one key, side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.errors import Location, user_location
from scalops.algebra.expressions import Column
from scalops.algebra.operators import Operator
from scalops.algebra.schema import Schema
from scalops.branches import Branch
from scalops.group_lifting import Lifting, Root
from scalops.group_maps import tokens, trace_group
from scalops.grouping import NoMethod, apart
from scalops.joining import common_types, require_branches
from scalops.lazy import name_methods

if TYPE_CHECKING:
    from scalops.table import Table

_MAKES = "map(lambda key, a_rows, b_rows: {...}) makes a table of a cogroup"
_WORD = "cogroup"


def cogroup(*branches: Branch) -> Cogroup:
    """The groups of 2 to 8 tables by one key: `so.cogroup(a.by("k"), b.by("j"))`.

    It holds every key of any branch, by first appearance, branch after branch; `.inner()` on a
    branch keeps only its keys. Nulls are one key.
    """
    location = user_location()
    require_branches(branches, "so.cogroup", location)
    return Cogroup(branches, location)


class Cogroup:
    """The groups of several tables: `map` makes a table of them."""

    __slots__ = ("_branches", "_by", "_keys", "_location")
    __hash__ = None  # type: ignore[assignment]
    _value_hint = _MAKES
    _capture_refusal = "it reads a cogroup, which has no records before the plan runs"

    def __init__(self, branches: tuple[Branch, ...], location: Location | None) -> None:
        self._branches, self._location = branches, location
        named = [[f"the key {n!r} of branch {i}" for n in b.names] for i, b in enumerate(branches)]
        self._by = common_types([b.keys for b in branches], named, "so.cogroup", location)
        kinds = (e.type.strong() for e in self._by[0])
        self._keys = Schema(tuple(zip(branches[0].names, kinds, strict=True)))

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
        for branch, by in zip(self._branches, self._by, strict=True):
            token = next(tokens)
            source, keys = apart(branch.table.plan, by, branch.origins, location)
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


name_methods("Cogroup", Cogroup)
