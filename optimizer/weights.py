"""Folds over records as folds over distinct records, each with the number that it stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from scalops.algebra.expressions import Column, Expression, call, constant
from scalops.algebra.folds import Fold
from scalops.algebra.functions import function
from scalops.algebra.segment_folds import PREFIX, Segment
from scalops.optimizer.naming import fresh_name

_SAME = {
    "minimum", "maximum", "any", "all", "logical_and", "logical_or", "bitwise_and", "bitwise_or",
    "is_empty", "n_unique",
}  # fmt: skip


@dataclass(frozen=True)
class Weighed:
    """The folds over distinct records, and the result as an expression over theirs by name."""

    folds: tuple[Fold, ...]
    result: Callable[[Callable[[str], Expression]], Expression]


def weighed(fold: Fold, weight: Column, taken: set[str]) -> Weighed | None:
    """The fold over distinct records with a `weight`, int64; None where there is no such fold.

    count -> Σw, count f -> Σ w·[f is not null], Σf -> Σ w·f, mean f -> Σ w·f / Σ w·[f is not null];
    least, greatest, whether any or all, bits and the number of different values stay as they are:
    they are the same however often a value comes. Integers are exact, modulo 2^64 as before. For
    float16 there is none: a weight may be too large for it. Folds by a small integer key likewise.
    """
    if isinstance(fold, Segment):
        return _by_key(fold, weight, taken)
    if type(fold) is not Fold or fold.combine:
        return None
    kind = fold.type
    if fold.kind in _SAME or (fold.kind == "add" and kind.name == "bool"):
        return Weighed((fold,), lambda of: of(fold.name))
    if fold.kind == "count":
        parameters = (("weak", True),) if kind.weak else ()
        number = _number(fold.arguments, weight)
        made = replace(fold, kind="sum", arguments=(number,), parameters=parameters)
        return _if_typed(fold, made)
    if fold.kind in ("sum", "add", "mean") and kind.is_numeric and kind.name not in _TOO_SMALL:
        own = "sum" if fold.kind == "mean" else fold.kind
        total = replace(fold, kind=own, arguments=(_times(weight, fold.arguments[0], kind.name),))
        if fold.kind != "mean":
            return _if_typed(fold, total)
        if fold.initial is not None or total.type != kind:
            return None
        first, second = fresh_name(f"{fold.name}_total", taken), fresh_name(f"{fold.name}_n", taken)
        count = Fold(second, "sum", (_number(fold.arguments, weight),), location=fold.location)

        def mean(of: Callable[[str], Expression]) -> Expression:
            number = call(function("cast"), of(second), dtype=kind.name)
            return call(function("divide"), of(first), number, location=fold.location)

        return Weighed((replace(total, name=first), count), mean)
    return None


_TOO_SMALL = ("float16", "bool")


def _if_typed(fold: Fold, made: Fold) -> Weighed | None:
    if made.type != fold.type:
        return None
    return Weighed((made,), lambda of: of(fold.name))


def _number(arguments: Sequence[Expression], weight: Column) -> Expression:
    """How many of the records that a distinct one stands for a fold counts: all or none."""
    number: Expression = weight
    for argument in arguments:
        missing = call(function("is_null"), argument)
        number = call(function("where"), missing, constant(0), number)
    return number


def _times(weight: Column, argument: Expression, name: str) -> Expression:
    scale = weight if name == weight.type.name else call(function("cast"), weight, dtype=name)
    if argument.type.name != name:
        argument = call(function("cast"), argument, dtype=name)
    return call(function("multiply"), scale, argument)


def _by_key(fold: Segment, weight: Column, taken: set[str]) -> Weighed | None:
    """A fold for each key: as one for all, and a mean is 0 where no record has its key."""
    if fold.over:
        return None
    key, *given = fold.arguments
    name = fold.type.name
    if fold.output == 1 or fold.of in _SAME:
        return Weighed((fold,), lambda of: of(fold.name))
    number = replace(fold, kind=_SUM, arguments=(key, _number(given, weight)))
    if fold.of == "count":
        return _if_typed(fold, number)
    if fold.of not in ("sum", "add", "mean") or name in _TOO_SMALL:
        return None
    own = _SUM if fold.of == "mean" else fold.kind
    total = replace(fold, kind=own, arguments=(key, _times(weight, given[0], name)))
    if fold.of != "mean":
        return _if_typed(fold, total)
    if total.type != fold.type:
        return None
    first, second, third = (fresh_name(f"{fold.name}_{n}", taken) for n in ("total", "n", "there"))
    parts = (
        replace(total, name=first),
        replace(number, name=second),
        replace(number, name=third, output=1),
    )

    def mean(of: Callable[[str], Expression]) -> Expression:
        # By 1 where there is nothing; what is null in all of a key's records is 0 / 0.
        by = call(function("where"), of(third), of(second), constant(1))
        by = call(function("cast"), by, dtype=name)
        if len(fold.type.shape) > 1:
            shape = (fold.size, *(1 for _ in fold.type.shape[1:]))
            by = call(function("reshape"), by, shape=shape)
        return call(function("divide"), of(first), by, location=fold.location)

    return Weighed(parts, mean)


_SUM = f"{PREFIX}sum"
