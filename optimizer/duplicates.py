"""How many different records a table holds in what a loop reads of them.

Decisions rest on a bound, not on a guess: of n records looked at, those whose values were seen
once tell which part of the table was not seen (Good, "The population frequencies of species and
the estimation of population parameters", Biometrika 1953). A part u of N records holds at most
u·N values besides those that were seen. So a few frequent values beside a long tail are no reason
to take the tail for small, as an estimate by extrapolation would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from scalops.algebra import operators as op
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import ScalopsError
from scalops.algebra.expressions import (
    Bound,
    Call,
    Constant,
    Expression,
    Iteration,
    LoopOutput,
    State,
    Subquery,
    arguments_first,
    columns_read,
)
from scalops.algebra.relations import GroupAggregate
from scalops.optimizer.lineage import from_source
from scalops.optimizer.rules.merge_maps import inline
from scalops.optimizer.samples import (
    Sample,
    Sampled,
    SampledSource,
    Unknown,
    Values,
    distinct_in_range,
)

DISTINCT_RECORDS = "distinct records"  # the label of a group-by that makes them
SAMPLE_ROWS = 16_384
_FIRST_ROWS = 1000  # looked at before: where all of them differ, no more are
_ALL_DIFFER = 0.99
_RUNS = 8  # of consecutive records, where a file is looked at
_MOST_POSSIBLE = 1e15
_ONE_VALUE = Constant | Subquery | LoopOutput | State | Bound | Iteration  # for all records
_KEPT_WHERE = op.Filter | op.Sort | op.Limit | op.Slice | op.Repartition | op.Cache | op.Distinct


@runtime_checkable
class RunSampledSource(Protocol):
    """A source of which runs of consecutive records can be read."""

    def sample_runs(
        self, runs: int, rows: int, columns: tuple[str, ...]
    ) -> tuple[Sampled, npt.NDArray[np.int64]]:
        """Up to `rows` records from the beginning of each of `runs` equal parts, or all if there
        are fewer; as `SampledSource.sample` gives them, and the part of each record."""
        ...


@dataclass(frozen=True)
class Distinct:
    """`likely` different values are expected, and hardly more than `most`.

    `sampled` records were looked at; 0 where types or metadata tell.
    """

    likely: float
    most: float
    sampled: int = 0


def distinct(table: op.Operator, rows: float, keys: Sequence[Expression]) -> Distinct | None:
    """How many different values the keys have together over a table of `rows` records.

    None where nothing tells, or where what was looked at first hardly has two equal records.
    """
    possible = min(rows, _possible(table, keys))
    told = Distinct(possible, possible) if possible < rows else None
    found = from_source(table, keys, {})
    seen = None if found is None else _seen(*found)
    if seen is None or (told is not None and told.most <= seen.most):
        return told
    return Distinct(min(seen.likely, possible), min(seen.most, possible), seen.sampled)


def records_of(groups: GroupAggregate, rows: float) -> Distinct | None:
    """How many distinct records a group-by makes of so many."""
    keys = [e for _, e in groups.keys]
    return distinct(groups.source, rows, [e for e in keys if not _is_sign(e, keys)])


def _is_sign(e: Expression, keys: Sequence[Expression]) -> bool:
    return isinstance(e, Call) and e.function.name == "signbit" and e.arguments[0] in keys


def _seen(scan: op.Scan, keys: Sequence[Expression]) -> Distinct | None:
    """What the metadata or some records of the source tell."""
    source = scan.source
    if not isinstance(source, SampledSource):
        most = distinct_in_range(scan, keys)
        if most is not None and most < source.likely_rows:
            return Distinct(most, most)
        if not isinstance(source, RunSampledSource):
            return None
    rows = source.likely_rows
    first = _looked_at(_Looked(source, _FIRST_ROWS, 1), keys, rows)
    if first is None or first.sampled >= rows:
        return first
    if first.most >= _ALL_DIFFER * rows:
        return None
    if source not in _samples:
        _samples[source] = _Looked(source, SAMPLE_ROWS, _RUNS)
    return _looked_at(_samples[source], keys, rows)


class _Looked(Sample):
    """Records of a source with their arrays.

    Of a file they lie in `count` runs; `runs`, int64[records], is the run of each, where they do.
    """

    def __init__(self, source: Any, size: int, count: int) -> None:
        super().__init__(source, round(source.likely_rows))
        self._size, self._count = size, count
        self.runs: Values | None = None

    def column(self, name: str) -> tuple[Values, Values | None]:
        if name not in self.columns:
            self.read((name,))
        if name not in self.columns:
            raise Unknown(name)
        return self.columns[name]

    def read(self, names: tuple[str, ...]) -> None:
        """Look at columns that were not looked at so far."""
        if not names:
            return
        if isinstance(self.source, SampledSource):
            made = self.source.sample(self._size, names, arrays=True)
        else:
            made, runs = self.source.sample_runs(self._count, self._size // self._count, names)
            self.runs = runs if self._count > 1 else None
        self.columns.update(made)

    def _own(self, e: Expression, done: Any) -> tuple[Values, Values | None]:
        if isinstance(e, Call) and e.function.name == "index":
            (array,), key = e.arguments, dict(e.parameters)["key"]
            if all(isinstance(k, int) for k in key):
                values, valid = done[array]
                return values[(slice(None), *key)], valid
        if isinstance(e, Call) and any(a.type.shape for a in e.arguments):
            raise Unknown(e.function.name)
        return super()._own(e, done)

    def codes(self, keys: Sequence[Expression]) -> Values:
        """int64[records]: equal where all keys are, to the bit. Raises: Unknown."""
        codes: Values | None = None
        self.read(tuple(sorted(columns_read(keys) - self.columns.keys())))
        for key in keys:
            values, valid = self._evaluate(key)
            if not values.ndim:
                continue  # the same for all
            own = _codes(values)
            if valid is not None:
                own = np.where(valid, own + 1, 0)
            if codes is not None:
                own = codes * (int(own.max(initial=0)) + 1) + own
            codes = np.unique(own, return_inverse=True)[1].reshape(-1)
        if codes is None:
            raise Unknown
        return codes


def _codes(values: Values) -> Values:
    if values.dtype == object:
        return np.unique(values, return_inverse=True)[1].reshape(-1)
    if not values.size:
        return np.zeros(len(values), np.int64)
    flat = np.ascontiguousarray(values.reshape(len(values), -1))
    width = flat.dtype.itemsize * flat.shape[1]
    kind = f"u{width}" if width in (1, 2, 4, 8) else f"V{width}"
    return np.unique(flat.view(kind).reshape(-1), return_inverse=True)[1].reshape(-1)


_samples: WeakKeyDictionary[Any, _Looked] = WeakKeyDictionary()


def _looked_at(sample: _Looked, keys: Sequence[Expression], rows: float) -> Distinct | None:
    """What these records tell; the numbers behind it are those of the whole source.

    Records that lie side by side are alike in a sorted file: a value counts as seen again only
    where another run has it.
    """
    try:
        codes = sample.codes(keys)
    except (Unknown, ScalopsError):
        return None
    n = len(codes)
    if not n:
        return None
    different = int(codes.max()) + 1
    if n >= rows:
        return Distinct(different, different, n)
    if sample.runs is None:
        counts = np.bincount(codes)
        once = alone = int((counts == 1).sum())
    else:
        first, last = np.full(different, _RUNS), np.full(different, -1)
        np.minimum.at(first, codes, sample.runs)
        np.maximum.at(last, codes, sample.runs)
        only = first == last
        once, alone = int(only.sum()), int(only[codes].sum())
    most = min(rows, different + rows * alone / n)
    likely = n * different / max(1e-9, n - once + once * n / rows)
    return Distinct(min(most, max(different, likely)), most, n)


def _possible(table: op.Operator, keys: Sequence[Expression]) -> float:
    """At most how many values the keys have together, by their types and by what makes them."""
    made = list(keys)
    while isinstance(table, op.Project | _KEPT_WHERE):
        if isinstance(table, op.Project):
            made = [inline(e, table.outputs) for e in made]
        table = table.source
    known: dict[Expression, float] = {}
    return prod(_values(e, known) for e in made)


def _values(root: Expression, known: dict[Expression, float]) -> float:
    """At most how many values an expression has, null among them."""
    for e in arguments_first(root):
        if e not in known:
            known[e] = min(_by_type(e), _by_arguments(e, known))
    return known[root]


def _by_type(e: Expression) -> float:
    kind = e.any_type
    if not isinstance(kind, ArrayType) or not kind.is_plain:
        return inf
    if kind.numpy.kind not in "biu" or kind.numpy.itemsize > 2:
        return inf
    of_one = 2.0 if kind.name == "bool" else 2.0 ** (8 * kind.numpy.itemsize)
    return of_one**kind.size + 1 if kind.size * kind.numpy.itemsize <= 4 else inf


def _by_arguments(e: Expression, known: dict[Expression, float]) -> float:
    if isinstance(e, _ONE_VALUE):
        return 1.0
    if not isinstance(e, Call):
        return inf
    if e.function.name == "where":
        _, left, right = e.arguments
        return min(known[left] + known[right], prod(known[a] for a in e.arguments))
    made = prod(known[a] for a in e.arguments)
    return made if made < _MOST_POSSIBLE else inf
