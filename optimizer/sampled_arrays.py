"""Arrays of a few records of a source: always the same records, at no cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scalops.algebra import operators as op
from scalops.algebra.expressions import (
    Call,
    Column,
    Constant,
    Expression,
    arguments_first,
    columns_read,
)
from scalops.optimizer.samples import SampledSource, Values


def sampled_arrays(scan: op.Scan, e: Expression, rows: int) -> Values | None:
    """An expression's values [rows, *shape] over records of a source in memory, without nulls.

    None where no records can be had, or where it holds what only a run can tell.
    """
    source = scan.source
    if not isinstance(source, SampledSource) or source.rows is None:
        return None
    names = tuple(sorted(columns_read([e])))
    found = source.sample(rows, names, arrays=True)
    if any(name not in found for name in names):
        return None
    masks = [valid for _, valid in found.values() if valid is not None]
    known = np.logical_and.reduce(masks) if masks else slice(None)
    held = {name: values[known] for name, (values, _) in found.items()}
    if isinstance(e, Column):
        return held[e.name]
    count = min((len(v) for v in held.values()), default=0)
    made = [_of_record(e, {n: v[i] for n, v in held.items()}) for i in range(count)]
    return None if any(m is None for m in made) or not made else np.stack(made)


def _of_record(root: Expression, record: Mapping[str, Any]) -> Any:
    """The value for one record; None where there is none to be had."""
    done: dict[Expression, Any] = {}
    for e in arguments_first(root):
        match e:
            case Column(name=name, record=0):
                done[e] = record[name]
            case Constant(value=value):
                done[e] = value
            case Call(function=function, arguments=arguments, parameters=parameters):
                try:
                    with np.errstate(all="ignore"):
                        given = [done[a] for a in arguments]
                        done[e] = function.evaluate(*given, **dict(parameters))
                except Exception:  # it belongs to the run, with its line
                    return None
            case _:
                return None
    return np.asarray(done[root])
