"""Which folds of a plan are compiled: what the option says, and whether there is a compiler."""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module

from scalops.algebra.errors import ConfigError, user_location
from scalops.algebra.tree import find
from scalops.engine.physical_compiled import with_compiled
from scalops.engine.physical_plan import IterateTogether, PhysicalPlan, TreeAggregate
from scalops.optimizer.just_in_time import choose

log = logging.getLogger("scalops")
LEAST_RECORDS = 100_000.0  # in all passes: of fewer, no fold is worth compiling
INSTALL = 'pip install "scalops[jit]"'


def just_in_time(plan: PhysicalPlan, jit: str | bool) -> PhysicalPlan:
    """The plan with the folds compiled that the option asks for; with "auto", that are worth it.

    Raises ConfigError where `jit` is True and there is no numba. It is imported only where a
    fold is to be compiled. Folds of several loops that are one product of matrices stay so: a
    compiled loop multiplies by vectors.
    """
    if jit is True and (why := numba_missing()) is not None:
        raise ConfigError(
            f"jit is True and numba cannot be imported: {why}",
            location=user_location(),
            hint=f'{INSTALL}, or so.session(jit="auto")',
        )
    if jit is False or not any(isinstance(s.sink, TreeAggregate) for s in plan.stages):
        return plan
    from scalops.engine.kernels.jit.candidates import compile_works

    stacked = {
        s for node in find(plan.program, IterateTogether) for own in node.stacks for s in own
    }
    always = jit is True
    found = compile_works(plan, 0.0 if always else LEAST_RECORDS)
    works = [w for w in found if always or w.stage not in stacked]
    made = choose(works, always)
    if made.stages and (why := numba_missing()) is not None:
        notes = {
            s: f"NumPy's kernels: numba cannot be imported ({INSTALL})" if s in made.stages else n
            for s, n in made.notes.items()
        }
        log.info("folds would be worth compiling, but numba cannot be imported: %s", why)
        return with_compiled(plan, notes)
    return with_compiled(plan, made.notes, *made.stages) if made.notes else plan


@cache
def numba_missing() -> str | None:
    """Why numba cannot be imported; None where it can."""
    try:
        numba = import_module("numba")
    except Exception as error:  # also one that does not know this NumPy
        return str(error) or type(error).__name__
    return "NUMBA_DISABLE_JIT is set" if numba.config.DISABLE_JIT else None
