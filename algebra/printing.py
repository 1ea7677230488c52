"""Expressions in readable algebra."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.folds import Fold, Transition, terms
from scalops.algebra.functions import function
from scalops.algebra.relations import GroupAggregate, GroupApply, Join, Running
from scalops.algebra.segment_folds import Segment
from scalops.algebra.sparse import SparseVector
from scalops.algebra.tree import Node, substitute

_PRECEDENCE = {
    "|": 1, "^": 2, "&": 3, "<<": 4, ">>": 4, "+": 5, "-": 5, "*": 6, "/": 6, "//": 6, "%": 6,
    "@": 6, "**": 8,
}  # fmt: skip
_COMPARE = 0
_UNARY = 7
_ATOM = 10
_LONGEST = 360  # a part longer than this is elided, so that shared parts cannot explode

Names = Mapping[Node, str]


def number(value: Any) -> str:
    """A number, short: 6 significant digits unless that would change it much."""
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, (float, np.floating)):
        text = f"{float(value):.6g}"
        return text if float(text) == float(value) else f"{float(value):.10g}"
    return str(value)


def constant_text(value: Any) -> str:
    """A constant: small arrays in full, large ones by type and, where all are equal, the value."""
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, SparseVector):
        return f"{value.type} constant"
    if isinstance(value, np.ndarray) and value.ndim:
        if value.size <= 4 and value.ndim == 1:
            return f"[{', '.join(number(v) for v in value.tolist())}]"
        kind = ArrayType(str(value.dtype), value.shape)
        if value.size and value.dtype.kind in "biuf" and bool((value == value.flat[0]).all()):
            return f"{kind} of {number(value.flat[0])}"
        return f"{kind} constant"
    return number(value.item() if isinstance(value, np.ndarray) else value)


def text(expression: ex.Expression, names: Names | None = None) -> str:
    """One line of algebra; `names` gives aggregates and loops their names in the plan."""
    return _Printer(names or {}).text(expression)


def running_text(running: Running, names: Names | None = None) -> str:
    """A running aggregate with the name of its column."""
    shown = [text(a, names) for a in running.arguments]
    if running.reverse:
        shown.append("reverse")
    over = ", ".join(text(e, names) for e in running.over)
    return f"{running.name} = {running.kind}({', '.join(shown)}){over and f' over {over}'}"


def fold_text(fold: Fold, names: Names | None = None) -> str:
    """A fold in words of algebra."""
    printer = _Printer(names or {})
    arguments = [printer.text(a) for a in fold.arguments]
    if isinstance(fold, Segment):
        return _segment_text(fold, arguments)
    match fold.kind:
        case "count":
            return f"count({', '.join(arguments)})"
        case "is_empty":
            return "is_empty()"
        case "add":
            return f"sum({arguments[0]})"
        case "sum_scaled" | "add_scaled" | "mean_scaled":
            word = "mean" if fold.kind == "mean_scaled" else "sum"
            return f"{word}({_factor(arguments[0])} * {_factor(arguments[1])}) as s @ X"
        case "sum_outer" | "add_outer" | "mean_outer":
            word = "mean" if fold.kind == "mean_outer" else "sum"
            return f"{word}(outer({arguments[0]}, {arguments[1]})) as U.T @ V"
        case "sum_gram" | "add_gram" | "mean_gram":
            word = "mean" if fold.kind == "mean_gram" else "sum"
            scale = _factor(arguments[0])
            return f"{word}({scale} * outer({arguments[1]}, {arguments[1]})) as X.T @ diag(s) @ X"
        case "sum_squares" | "add_squares" | "mean_squares":
            word = "mean" if fold.kind == "mean_squares" else "sum"
            shares, x, c = (_factor(a) for a in arguments)
            return f"{word}({shares}[:, None] * ({x} - {c}) ** 2) as products R.T @ Y"
        case "sum_terms" | "add_terms" | "mean_terms":
            word = "mean" if fold.kind == "mean_terms" else "sum"
            parts = [_TERMS[form](*arguments[own]) for form, own in terms(fold)]
            text, how = (" + ".join(p) for p in zip(*parts, strict=True))
            return f"{word}({text}) as {how}"
        case "reduce":
            combined = printer.text(fold.combine[fold.output])
            return f"reduce({', '.join(arguments)}; {combined})"
        case "aggregate":
            return _aggregate_text(fold, arguments, printer)
        case "argmin" | "argmax":
            return f"{fold.kind}({arguments[0]}; {arguments[1 + fold.output]})"
        case "first_record" | "last_record":
            return f"{fold.word}({arguments[fold.output]})"
        case "multiply" | "minimum" | "maximum":
            short = {"multiply": "product", "minimum": "min", "maximum": "max"}[fold.kind]
            return f"{short}({arguments[0]})"
        case _:
            said = [(n, v) for n, v in fold.parameters if n != "weak"]
            given = [f"{n}={list(v) if isinstance(v, tuple) else v}" for n, v in said]
            return f"{fold.kind}({', '.join([*arguments, *given])})"


def _segment_text(fold: Segment, arguments: Sequence[str]) -> str:
    """`mean(x) per cluster as segment sums [50, 50]`."""
    key, *given = arguments
    if not fold.over and key != fold.key:
        key = f"{fold.key} = {key}"
    word = {"minimum": "min", "maximum": "max", "add": "sum"}.get(
        of := fold.of.partition("_")[0], of
    )
    if fold.output == 1:
        return f"any record per {key}"
    ending = {"minimum": "minima", "maximum": "maxima", "count": "counts"}.get(of, "sums")
    whole = " / records" if fold.over == "mean" else ""
    shape = list(fold.type.shape)
    return f"{word}({' * '.join(map(_factor, given))}) per {key}{whole} as segment {ending} {shape}"


_TERMS: dict[str, Callable[..., tuple[str, str]]] = {
    "scaled": lambda s, x: (f"{_factor(s)} * {_factor(x)}", "s @ X"),
    "outer": lambda u, v: (f"outer({u}, {v})", "U.T @ V"),
    "gram": lambda s, x: (f"{_factor(s)} * outer({x}, {x})", "X.T @ diag(s) @ X"),
    "same": lambda c: (c, "n * c"),
}


def _aggregate_text(fold: Fold, arguments: Sequence[str], printer: _Printer) -> str:
    if not isinstance(fold, Transition):
        return f"aggregate({', '.join(arguments)})"
    named: dict[Node, Node] = {
        ex.Column(str(i), a.type, record=1): a for i, a in enumerate(fold.arguments)
    }
    own: dict[Node, Node] = {
        c: ex.Reduced("state" if c.name == "value" else f"state.{c.name}", c.type)
        for e in fold.step
        for c in ex.columns([e])
        if c.record == 0
    }
    step = substitute(fold.step[fold.output], own, ex.in_record)
    return f"aggregate({printer.text(substitute(step, named, ex.in_record))}), in record order"


def key_text(keys: Sequence[ex.Expression], down: Sequence[bool], names: Names) -> str:
    """The keys of a sort, with the direction of those that descend."""
    pairs = zip(keys, down, strict=True)
    return ", ".join(text(k, names) + (" descending" if d else "") for k, d in pairs)


def range_text(elements: op.Range, names: Names | None = None) -> str:
    """How often a loop over a range runs, or over what."""
    if elements.known is not None:
        r = elements.known
        start, stop, step = (str(n) for n in (r.start, r.stop, r.step))
        return f"{len(r)} times" if (start, step) == ("0", "1") else f"over {start}:{stop}:{step}"
    start, stop, step = (text(e, names) for e in elements.bounds)
    return f"{stop} times" if (start, step) == ("0", "1") else f"over {start}:{stop}:{step}"


def table_title(node: op.Operator, names: Names | None = None) -> str:
    """An operator over one table, in words."""
    names = names or {}
    word = f"[{node.label}] " if node.label not in ("", type(node).__name__.lower()) else ""
    match node:
        case op.Slice(start=start, length=length):
            many = "all" if length is None else text(length, names)
            return f"Slice {word}{many} from {text(start, names)}"
        case op.Sort(keys=keys, descending=down):
            return f"Sort {word}by {key_text(keys, down, names)}"
        case op.WithRowIndex(name=name):
            return f"WithRowIndex {name}"
        case op.Explode(names=exploded, index=index):
            position = "" if index is None else f", position as {index}"
            return f"Explode {word}{', '.join(exploded)}{position}"
        case op.MapBatches(function=function, declared=declared):
            return f"MapBatches {function.name} gives {declared}"
        case Join():
            return join_title(node, names)
        case GroupAggregate(keys=keys, indexed=indexed):
            shown = ", ".join(
                n if isinstance(e, ex.Column) and e.name == n else f"{n} = {text(e, names)}"
                for n, e in keys
            )
            once = ", groups found once" if indexed else ""
            word = "" if node.label == "agg" else word
            return f"GroupBy {word}{shown or 'nothing'}{once}"
        case op.Distinct(columns=columns):
            return f"Distinct by {', '.join(columns)}" if columns else "Distinct"
        case GroupApply(function=function, declared=declared):
            return f"GroupApply {word}{function.name} gives {declared}"
    return type(node).__name__


def join_title(node: Join, names: Names | None = None) -> str:
    """`Join left on (a = x, b = y)`: the left side's keys first."""
    pairs = zip(node.left_keys, node.right_keys, strict=True)
    keys = [f"{text(a, names)} = {text(b, names)}" for a, b in pairs]
    on = f" on ({', '.join(keys)})" if len(keys) > 1 else "".join(f" on {k}" for k in keys)
    nulls = ", nulls equal" if node.nulls_equal else ""
    once = ", positions computed once" if node.indexed else ""
    return f"Join {node.kind}{on}{nulls}{once}"


def _factor(argument: str) -> str:
    return f"({argument})" if " " in argument else argument


class _Printer:
    def __init__(self, names: Names) -> None:
        self._names = names
        self._done: dict[Node, tuple[str, int]] = {}

    def text(self, root: ex.Expression) -> str:
        stack: list[tuple[Node, bool]] = [(root, False)]
        while stack:
            node, entered = stack.pop()
            if node in self._done or not isinstance(node, ex.Expression):
                continue
            if entered:
                made, precedence = self._node(node)
                if len(made) > _LONGEST:
                    made = f"{made[: _LONGEST - 1]}…"
                self._done[node] = made, precedence
            else:
                stack.append((node, True))
                stack.extend((c, False) for c in node.children)
        return self._done[root][0]

    def _at(self, node: ex.Expression, precedence: int) -> str:
        made, own = self._done[node]
        return made if own >= precedence else f"({made})"

    def _node(self, node: ex.Expression) -> tuple[str, int]:
        match node:
            case ex.Constant(value=value):
                made = constant_text(value)
                return made, _UNARY if made.startswith("-") else _ATOM
            case ex.Column(name=name, record=record):
                return (name if record == 0 else f"{name}'"), _ATOM
            case ex.State(name=name):
                return ("env" if name == "value" else f"env.{name}"), _ATOM
            case ex.Iteration():
                return "iteration", _ATOM
            case ex.Leaf(name=name):
                return name, _ATOM
            case ex.Subquery(source=source, name=name):
                return f"{self._names.get(source, '#?')}.{name}", _ATOM
            case ex.LoopOutput(loop=loop, name=name):
                own = self._names.get(loop, "loop")
                return (own if name == "value" else f"{own}.{name.removeprefix('@')}"), _ATOM
            case ex.Item(source=source, index=index):
                if isinstance(source, (ex.Opaque, ex.DriverCall)) and len(source.outputs) == 1:
                    return self._at(source, _ATOM), _ATOM
                return f"{self._at(source, _ATOM)}[{index}]", _ATOM
            case ex.Opaque(function=function, slots=slots):
                name = function.name.removesuffix("()").replace("the lambda", "lambda")
                read = ["record", *dict.fromkeys(self._at(s, 0) for s in slots)]
                return f"{name}({', '.join(r for r in read if 'constant' not in r)})", _ATOM
            case ex.DriverCall(function=function, arguments=arguments):
                name = function.name.removesuffix("()").replace("the lambda", "lambda")
                return f"call {name}({', '.join(self._at(a, 0) for a in arguments)})", _COMPARE
            case ex.Call():
                return self._call(node)
            case _:
                return type(node).__name__.lower(), _ATOM

    def _call(self, node: ex.Call) -> tuple[str, int]:
        entry, arguments = node.function, node.arguments
        if entry.form and len(arguments) == 2:
            own = _PRECEDENCE.get(entry.form, _COMPARE)
            left, right = (own + 1, own) if entry.form == "**" else (own, own + 1)
            if own == _COMPARE:  # Python would chain a < b < c
                left = own + 1
            a, b = self._at(arguments[0], left), self._at(arguments[1], right)
            return f"{a} {entry.form} {b}", own
        if entry.form and len(arguments) == 1:
            return f"{entry.form}{self._at(arguments[0], _UNARY)}", _UNARY
        given = [self._done[a][0] for a in arguments]
        parameters = dict(node.parameters)
        if entry.name == "stored":
            return self._with_constant(self._at(arguments[0], _UNARY), parameters)
        match entry.name:
            case "index":
                return f"{self._at(arguments[0], _ATOM)}[{_key(parameters['key'])}]", _ATOM
            case "take":
                return f"{self._at(arguments[0], _ATOM)}[{given[1]}]", _ATOM
            case "list_item":
                return f"{self._at(arguments[0], _ATOM)}[{given[1]}]", _ATOM
            case name if name.startswith(("str_", "list_")) and not entry.form:
                method = name.replace("_", ".", 1)
                said = [f"{n}={v!r}" for n, v in parameters.items() if v not in (None, False)]
                return f"{self._at(arguments[0], _ATOM)}.{method}({', '.join(said)})", _ATOM
            case "transpose":
                return f"{self._at(arguments[0], _ATOM)}.T", _ATOM
            case "cast":
                return f"{parameters['dtype']}({given[0]})", _ATOM
            case "square":
                return f"{self._at(arguments[0], _PRECEDENCE['**'] + 1)} ** 2", _PRECEDENCE["**"]
            case "absolute":
                return f"abs({given[0]})", _ATOM
        if len(given) > 6:
            given = [*given[:2], "…", given[-1]]
        more = [f"{n}={v}" for n, v in parameters.items() if v is not None and v is not False]
        return f"{entry.name}({', '.join([*given, *more])})", _ATOM

    def _with_constant(self, argument: str, parameters: dict[str, Any]) -> tuple[str, int]:
        """`x ** 2`, where a sparse x stays sparse because of the 2."""
        entry = function(parameters["ufunc"])
        pair = [argument, number(parameters["constant"])]
        if parameters["side"] == 1:
            pair.reverse()
        if entry.form:
            return f"{pair[0]} {entry.form} {pair[1]}", _PRECEDENCE.get(entry.form, _COMPARE)
        return f"{entry.name}({', '.join(pair)})", _ATOM


def _key(key: tuple[Any, ...]) -> str:
    parts = []
    for k in key:
        if isinstance(k, tuple):
            bounds = ["" if b is None else str(b) for b in k[1:]]
            parts.append(":".join(bounds if bounds[2] else bounds[:2]))
        else:
            parts.append("None" if k is None else str(k))
    return ", ".join(parts)
