"""The environment of a loop: one value or table, a tuple or dict of them, or a class of fields."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from scalops.algebra.dtypes import ArrayType, name_of
from scalops.algebra.errors import Location, LoopError, user_location
from scalops.algebra.expressions import Expression, State
from scalops.algebra.operators import Operator
from scalops.algebra.relations import StateTable
from scalops.algebra.schema import Schema
from scalops.table import Table
from scalops.value import Value, lift

BARE = "value"


class NoField(LoopError, AttributeError, KeyError):
    """A field that an environment has not, read as an attribute (`hasattr` says so) or a key."""


class Environment:
    """Base of a loop's named state: annotate the fields, give each a start value.

    class Model(so.Environment):
        w: np.ndarray
        loss: float
        pages: so.Table
    """

    def __init__(self, **fields: Any) -> None:
        declared = field_names(type(self))
        missing = [n for n in declared if n not in fields and not hasattr(type(self), n)]
        unknown = [n for n in fields if n not in declared]
        if missing or unknown:
            problem = f"lacks {missing}" if missing else f"has no field {unknown}"
            raise LoopError(
                f"{type(self).__name__} {problem}; its fields are {declared}",
                location=user_location(),
                hint=_annotate_hint(type(self), unknown, fields),
            )
        if not declared and (bare := _unannotated(type(self))):
            raise LoopError(
                f"{type(self).__name__} annotates no field",
                location=user_location(),
                hint=_annotate_hint(type(self), bare, {}),
            )
        for name in declared:
            object.__setattr__(
                self, name, fields[name] if name in fields else getattr(type(self), name)
            )

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in field_names(type(self)):
            near = get_close_matches(name, field_names(type(self)), 1)
            raise LoopError(
                f"{type(self).__name__} has no field {name!r};"
                f" its fields are {field_names(type(self))}",
                location=user_location(),
                hint=_annotate_hint(type(self), [name], {})
                or (f"did you mean {near[0]!r}? Else " if near else "")
                + "annotate it in the class and give it a start value",
            )
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> NoReturn:
        """Only for what is no field: fields are set when it is made."""
        if name.startswith("__"):
            raise AttributeError(name)
        raise no_field(type(self).__name__, name, field_names(type(self)))

    def __getitem__(self, name: str) -> Any:
        """A field by its name, as of a dict: env["w"] is env.w."""
        names = field_names(type(self))
        if name not in names:
            raise no_field(type(self).__name__, name, names)
        return getattr(self, name)

    def __setitem__(self, name: str, value: Any) -> None:
        names = field_names(type(self))
        if not isinstance(name, str):
            raise no_field(type(self).__name__, name, names)
        setattr(self, name, value)

    # With __getitem__ alone Python would take it for a sequence: env[0], env[1], ...
    __iter__ = None

    def __delattr__(self, name: str) -> NoReturn:
        raise LoopError(
            f"{type(self).__name__} keeps its fields: del env.{name}", location=user_location()
        )

    def __repr__(self) -> str:
        inner = ", ".join(f"{n}={getattr(self, n)!r}" for n in field_names(type(self)))
        return f"{type(self).__name__}({inner})"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        names = field_names(type(self))
        return all(_equal(getattr(self, n), getattr(other, n)) for n in names)

    __hash__ = None  # type: ignore[assignment]


class NamedFields(dict[str, Any]):
    """The symbols of an environment that is a dict, as its body and condition get them."""

    def __missing__(self, name: Any) -> NoReturn:
        raise no_field("the environment", name, list(self))

    def __getattr__(self, name: str) -> NoReturn:
        """Only for what dicts have not."""
        if name.startswith("__"):
            raise AttributeError(name)
        error = no_field("the environment", name, list(self))
        if name in self:
            error = NoField(
                f"the environment is a dict, which has no attribute {name!r}",
                location=user_location(),
                hint=f"its field is env[{name!r}]",
            )
        raise error


def no_field(what: str, name: Any, names: Sequence[str]) -> NoField:
    """The error of reading a field that is not there."""
    near = get_close_matches(name, names, 1) if isinstance(name, str) else []
    return NoField(
        f"{what} has no field {name!r}; its fields are {list(names)}",
        location=user_location(),
        hint=f"did you mean {near[0]!r}?" if near else None,
    )


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, pa.Table) or isinstance(b, pa.Table):
        return isinstance(a, pa.Table) and isinstance(b, pa.Table) and bool(a.equals(b))
    return np.array_equal(a, b)


def field_names(kind: type[Environment]) -> list[str]:
    """Annotated fields, base classes first."""
    names: dict[str, None] = {}
    for base in reversed(kind.__mro__):
        if base is not Environment and issubclass(base, Environment):
            names.update(dict.fromkeys(inspect.get_annotations(base)))
    return list(names)


def _unannotated(kind: type[Environment]) -> list[str]:
    """Plain attributes that would be fields if they were annotated."""
    declared = field_names(kind)
    return [
        name
        for base in reversed(kind.__mro__)
        if base is not Environment and issubclass(base, Environment)
        for name, value in vars(base).items()
        if not name.startswith("_")
        and name not in declared
        and not callable(value)
        and not hasattr(value, "__get__")
    ]


def _annotate_hint(
    kind: type[Environment], names: list[str], given: Mapping[str, Any]
) -> str | None:
    """How the first of these names is annotated, where the class has it or no field at all."""
    known = [n for n in names if n in _unannotated(kind)]
    name = next(iter(known or ([] if field_names(kind) else names)), None)
    if name is None:
        return None
    start = given[name] if name in given else getattr(kind, name, None)
    shown = type(start).__name__ if type(start) in _ANNOTATED else "np.ndarray"
    return f"annotate {name} in the class: `{name}: {shown}`"


def _annotations(kind: type[Environment]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        scope = vars(sys.modules.get(base.__module__, typing))
        for name, annotation in inspect.get_annotations(base).items():
            try:  # each by itself: a class inside a function may name what only that one sees
                found[name] = (
                    eval(annotation, dict(scope)) if isinstance(annotation, str) else annotation
                )
            except (NameError, AttributeError, TypeError):
                continue
    return found


class Structure:
    """How an environment is built from named fields, and taken apart into them."""

    def __init__(
        self, kind: str, names: tuple[str, ...], rebuild: Callable[[Mapping[str, Any]], Any]
    ):
        self.kind, self.names, self.rebuild = kind, names, rebuild

    def take_apart(self, result: Any, location: Location | None) -> dict[str, Any]:
        """The fields of what a body returned; LoopError where it is another structure."""
        structure, fields = describe(result, location)
        same = structure.names == self.names or (
            self.kind == "dict" and set(structure.names) == set(self.names)
        )
        if structure.kind != self.kind or not same:
            raise LoopError(
                f"the body returns {structure.title}; the loop starts with {self.title}",
                location=location,
                hint="return the environment with the same fields"
                if result is not None
                else "the body returns nothing: end it with `return env`",
            )
        return fields

    @property
    def title(self) -> str:
        return self.kind if self.kind in (BARE, "nothing") else f"{self.kind} {list(self.names)}"


def describe(value: Any, location: Location | None) -> tuple[Structure, dict[str, Any]]:
    """The structure of an environment and its fields."""
    if value is None:
        return Structure("nothing", (), lambda fields: None), {}
    if isinstance(value, Environment):
        cls = type(value)
        names = tuple(field_names(cls))
        fields = {n: getattr(value, n) for n in names}
        return Structure(cls.__name__, names, lambda f: cls(**f)), fields
    if isinstance(value, dict):
        if not all(isinstance(k, str) for k in value):
            raise LoopError("an environment's keys must be strings", location=location)
        keys = tuple(value)
        return Structure("dict", keys, lambda f: {n: f[n] for n in keys}), dict(value)
    if isinstance(value, tuple):
        own = getattr(value, "_fields", None)
        names = own or tuple(f"_{i}" for i in range(len(value)))
        if own:
            cls2: Any = type(value)
            return Structure(cls2.__name__, names, lambda f: cls2(**f)), dict(
                zip(names, value, strict=True)
            )
        return (
            Structure("tuple", names, lambda f: tuple(f[n] for n in names)),
            dict(zip(names, value, strict=True)),
        )
    return Structure(BARE, (BARE,), lambda f: f[BARE]), {BARE: value}


_ANNOTATED = {float: "float64", int: "int64", bool: "bool", str: "string"}


def _annotated_type(annotation: Any) -> str | None:
    """The scalar type that an annotation asks for: Python's or NumPy's."""
    if not isinstance(annotation, type):
        return None
    if issubclass(annotation, (np.number, np.bool)):
        return name_of(np.dtype(annotation))
    return _ANNOTATED.get(annotation)


Start = tuple[Expression, ArrayType] | Operator


def start_field(owner: Any, name: str, value: Any, location: Location | None) -> Start:
    """A start value and its type, converted to the field's annotation; or the start's table."""
    annotation = _annotations(type(owner)).get(name) if isinstance(owner, Environment) else None
    if isinstance(value, Table):
        if annotation is np.ndarray or _annotated_type(annotation) is not None:
            raise LoopError(
                f"the field {name!r} is annotated {annotation.__name__} and starts as a Table",  # type: ignore[union-attr]
                location=location,
                hint=f"annotate it `{name}: so.Table`",
            )
        return value.plan
    expression = lift(value)
    if isinstance(annotation, type) and issubclass(annotation, Table):
        found = f"a {type(value).__name__}" if expression is None else str(expression.type)
        raise LoopError(
            f"the field {name!r} is annotated so.Table and starts as {found}",
            location=location,
            hint="make a table of it: so.from_arrow(...), so.table({...}) or so.empty(schema)",
        )
    if expression is None:
        raise LoopError(
            f"the field {name!r} starts as a {type(value).__name__};"
            " expected a number, an array or a Value, or a Table",
            location=location,
            hint="make a table of it: so.from_arrow(...)"
            if hasattr(value, "__arrow_c_stream__")
            else None,
        )
    kind = expression.type.strong()
    if kind.is_sparse:
        raise LoopError(
            f"the field {name!r} starts as a sparse vector; expected a number or an array",
            location=location,
            hint="start with so.dense(x): what a loop updates is seldom sparse for long",
        )
    wanted = _annotated_type(annotation)
    if wanted is not None and wanted != kind.name:
        fits = (
            not kind.is_string
            and wanted != "string"
            and np.can_cast(kind.numpy, np.dtype(wanted), "same_kind")
        )
        if not fits:
            raise LoopError(
                f"the field {name!r} is annotated {annotation.__name__} and starts as {kind}",  # type: ignore[union-attr]
                location=location,
            )
        kind = ArrayType(wanted, kind.shape)
    return expression, kind


def symbols(
    structure: Structure,
    kinds: Mapping[str, ArrayType],
    tables: Mapping[str, Schema],
    token: int,
) -> Any:
    """A fresh environment of symbols, for one call of the body."""
    fields: dict[str, Any] = {n: Value(State(n, k, token)) for n, k in kinds.items()}
    fields |= {n: Table(StateTable(n, schema, token)) for n, schema in tables.items()}
    made = structure.rebuild({n: fields[n] for n in structure.names})
    return NamedFields(made) if structure.kind == "dict" else made
