"""Whether a function asks if something of a record is None, which no trace can see."""

from __future__ import annotations

import dis
from collections import defaultdict
from functools import partial
from inspect import CO_VARARGS, CO_VARKEYWORDS
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from scalops.engine.opaque.flat_results import Flattened
from scalops.rows import Udf

# What these give is not the None of a record: of None they give a truth value, or raise.
_COMPUTED = ("COMPARE_OP", "BINARY_OP", "CONTAINS_OP", "UNARY_", "LOAD_CONST")
_LEAVES = ("JUMP_FORWARD", "JUMP_BACKWARD", "RETURN_", "RAISE_", "RERAISE")


def asks_for_none(function: Any) -> bool:
    """Whether a function, or one of the user's that it calls by name, holds `x is None`.

    An `x` that the function itself has set, to constants and to what it computes, is no question
    about a record: `kept = one if kept is None else kept & one`.
    """
    waiting, seen = [function], set()
    while waiting:
        found: Any = waiting.pop()
        if isinstance(found, (partial, Udf, Flattened)):
            found = found.function if isinstance(found, Udf) else found.func
        if isinstance(found, MethodType):
            found = found.__func__
        if isinstance(found, FunctionType) and not (found.__module__ or "").startswith("scalops."):
            code = found.__code__
            waiting.extend(found.__globals__.get(name) for name in code.co_names)
            waiting.extend(c.cell_contents for c in found.__closure__ or () if _is_filled(c))
        elif isinstance(found, CodeType):
            code = found
        else:
            continue
        if code in seen:
            continue
        seen.add(code)
        if _Steps(code).ask():
            return True
        waiting.extend(code.co_consts)
    return False


class _Steps:
    """The bytecode of one function."""

    def __init__(self, code: CodeType) -> None:
        count = code.co_argcount + code.co_kwonlyargcount
        starred = bool(code.co_flags & CO_VARARGS) + bool(code.co_flags & CO_VARKEYWORDS)
        self._parameters = set(code.co_varnames[: count + starred])
        self._steps = list(dis.get_instructions(code))
        places = {step.offset: i for i, step in enumerate(self._steps)}
        self._jumps: defaultdict[int, list[int]] = defaultdict(list)  # to a step, from steps
        for i, step in enumerate(self._steps):
            if "JUMP" in step.opname and step.argval in places:
                self._jumps[places[step.argval]].append(i)
        self._own = self._own_variables()

    def ask(self) -> bool:
        """Whether one of them asks for None of what may come from a record."""
        for i, step in enumerate(self._steps):
            if "JUMP" in step.opname and step.opname.endswith("NONE"):
                place = i
            elif step.opname == "IS_OP" and self._is_none(i - 1):
                place = i - 1
            else:
                continue
            if not all(self._is_own(made, self._own) for made in self._makers(place)):
                return True
        return False

    def _is_none(self, place: int) -> bool:
        step = self._steps[place]
        return step.opname == "LOAD_CONST" and step.argval is None

    def _own_variables(self) -> set[str]:
        """Local variables that hold constants and computed values alone."""
        stores = [(i, s) for i, s in enumerate(self._steps) if s.opname.startswith("STORE_FAST")]
        own = {str(step.argval) for _, step in stores if step.opname == "STORE_FAST"}
        # A parameter's first value comes from elsewhere, whatever is stored in it later.
        own -= self._parameters
        while True:
            left = own - {
                name
                for i, step in stores
                for name in (step.argval if isinstance(step.argval, tuple) else (step.argval,))
                if step.opname != "STORE_FAST"
                or not all(self._is_own(made, own) for made in self._makers(i))
            }
            if left == own:
                return own
            own = left

    def _makers(self, place: int) -> set[int]:
        """The steps that may have put there what a step takes from the top of the stack."""
        made: set[int] = set()
        waiting, seen = [place], set()
        while waiting:
            at = waiting.pop()
            if at in seen:
                continue
            seen.add(at)
            waiting.extend(self._jumps[at])
            if at and not self._steps[at - 1].opname.startswith(_LEAVES):
                made.add(at - 1)
        return made

    def _is_own(self, place: int, own: set[str]) -> bool:
        step = self._steps[place]
        if step.opname.startswith("LOAD_FAST"):
            name = step.argval[-1] if isinstance(step.argval, tuple) else step.argval
            return name in own
        return step.opname.startswith(_COMPUTED)


def _is_filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
