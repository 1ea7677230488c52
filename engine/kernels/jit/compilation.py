"""From the text of a loop to machine code; each text once in a process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from scalops.algebra.errors import ExecutionError

log = logging.getLogger("scalops")
_lock = threading.Lock()
_compiled: dict[tuple[str, tuple[str, ...]], Callable[..., int]] = {}
# A process that makes ever new programs must not hold all of them.
_MOST = 256


def compiled(
    text: str,
    columns: Sequence[tuple[str, int]],
    arrays: Sequence[tuple[str, int]],
    results: Sequence[str],
) -> Callable[..., int]:
    """The function `fold` of a text, for arrays of these types and numbers of dimensions.

    It holds no lock while it runs. `columns` and `arrays` may be read-only.
    """
    key = text, (*map(str, columns), "|", *map(str, arrays), "|", *results)
    with _lock:
        if key not in _compiled:
            if len(_compiled) >= _MOST:
                _compiled.pop(next(iter(_compiled)))
            _compiled[key] = _made(text, columns, arrays, results)
        return _compiled[key]


def _made(
    text: str,
    columns: Sequence[tuple[str, int]],
    arrays: Sequence[tuple[str, int]],
    results: Sequence[str],
) -> Callable[..., int]:
    begin = perf_counter()
    from numba import njit, types

    from scalops.engine.kernels.jit.functions import NAMES

    def array(kind: str, rank: int, readonly: bool) -> Any:
        element = types.boolean if kind == "bool" else getattr(types, kind)
        return types.Array(element, rank, "C", readonly=readonly)

    signature = types.int64(
        types.int64,
        array("float64", 1, True),
        array("int64", 1, True),
        *(array(k, rank, True) for k, rank in (*columns, *arrays)),
        *(array(k, 1, False) for k in results),
    )
    names = dict(NAMES)
    exec(compile(text, "<a compiled fold>", "exec"), names)
    try:
        made: Callable[..., int] = njit(signature, nogil=True, error_model="numpy")(names["fold"])
    except Exception as error:
        raise ExecutionError(
            f"numba could not compile a fold: {type(error).__name__}: {error}",
            hint="so.session(jit=False) runs it with NumPy's kernels",
        ) from error
    log.info("compiled a fold in %.2f s", perf_counter() - begin)
    return made
