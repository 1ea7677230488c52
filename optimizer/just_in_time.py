"""NumPy's kernels or compiled loops: how the blocks of a fold are folded. A numeric decision.

A chain of NumPy calls writes and reads each step's result, and reads a vector column once for
each product with it; a compiled loop does all of it while a few records lie in the nearest cache.
It has to be compiled first. Made from the program and from numbers of records alone: what is
saved is an assumption about any machine, measured once on one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scalops.engine.physical_compiled import CompileWork
from scalops.optimizer.cost import Constant

# Version 1. Seconds that a compiled loop saves, of a pass on two threads.
STEP = Constant("step", 1e-6, "s saved for a step on a block", "assumed")
ELEMENT = Constant("element", 1.5e-10, "s saved for an element of a step", "assumed")
HEAVY = Constant("heavy", 1e-10, "s saved besides for one of exp, log and the like", "assumed")
PRODUCT = Constant("product", 5e-11, "s saved for an element of a vector in a product", "assumed")
START = Constant("compiler", 1.2, "s to load the compiler", "assumed")
COMPILE = Constant("compile", 0.3, "s to compile a loop", "assumed")
COMPILE_LINE = Constant("compile_line", 0.01, "s more for each line of its text", "assumed")


@dataclass(frozen=True)
class Compiling:
    """The stages whose folds are compiled, and notes by stage: why, or why not."""

    stages: tuple[int, ...]
    notes: dict[int, str]


def choose(works: Sequence[CompileWork], always: bool = False) -> Compiling:
    """The folds to compile: those that save more than compiling them takes; `always`: all.

    Nothing is said of folds that would not be worth it.
    """
    chosen: list[CompileWork] = []
    notes: dict[int, str] = {}
    for work in works:
        worth = saved(work) > compile_seconds(work)
        if work.refused is not None and (worth or always):
            notes[work.stage] = f"NumPy's kernels: no compiled form of {work.refused}"
        elif work.refused is None and (worth or always):
            chosen.append(work)
    gain = sum(saved(w) - compile_seconds(w) for w in chosen)
    if not always and gain <= START.value:
        chosen = []
    notes.update((w.stage, _note(w, always)) for w in chosen)
    return Compiling(tuple(w.stage for w in chosen), notes)


def saved(work: CompileWork) -> float:
    """Seconds that a compiled loop saves in all passes."""
    of_rows = (
        work.elements * ELEMENT.value + work.heavy * HEAVY.value + work.multiplied * PRODUCT.value
    )
    return work.passes * (work.rows * of_rows + work.blocks * work.calls * STEP.value)


def compile_seconds(work: CompileWork) -> float:
    """Seconds to compile a fold's loop."""
    return COMPILE.value + work.lines * COMPILE_LINE.value


def _note(work: CompileWork, asked: bool) -> str:
    if asked:
        return "compiled just in time (numba), as asked for"
    passes = f"{work.passes:,.0f} passes".replace(",", "_") + ("" if work.known else " (assumed)")
    return (
        f"compiled just in time (numba): {passes} save about {saved(work):.1f} s,"
        f" compiling takes {compile_seconds(work):.1f} s (assumed)"
    )
