"""A value of several named parts, as a reduce of structured records gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from scalops.algebra.errors import SchemaError, user_location
from scalops.algebra.schema import FIELD, Schema
from scalops.lazy import Lazy
from scalops.tracing import refuse_to_run
from scalops.value import Value


class StructuredValue(Lazy):
    """Parts by name or position: `v.loss`, `v["loss"]`, `v[0]`."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Mapping[str, Value]) -> None:
        """`parts` by flat names (`algebra.schema`): one that is a structure has parts itself."""
        self._parts: dict[str, Any] = {}
        inner: dict[str, dict[str, Value]] = {}
        for name, value in parts.items():
            part, _, field = name.partition(FIELD)
            self._parts.setdefault(part, value)
            if field:
                inner.setdefault(part, {})[field] = value
        for part, fields in inner.items():
            self._parts[part] = StructuredValue(fields)

    @property
    def flat(self) -> dict[str, Value]:
        """All values, by flat names."""
        found: dict[str, Value] = {}
        for name, part in self._parts.items():
            if isinstance(part, StructuredValue):
                found |= {name + FIELD + n: v for n, v in part.flat.items()}
            else:
                found[name] = part
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_parts":
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, key: str | int) -> Any:
        names = list(self._parts)
        if isinstance(key, int) and -len(names) <= key < len(names):
            return self._parts[names[key]]
        if key in self._parts:
            return self._parts[str(key)]
        raise SchemaError(
            f"the value has no part {key!r}; its parts are {names}", location=user_location()
        )

    def __iter__(self) -> Iterator[Any]:
        return iter(self._parts.values())

    def __len__(self) -> int:
        return len(self._parts)

    def __repr__(self) -> str:
        kinds = Schema(tuple((n, v.type) for n, v in self.flat.items()))
        return f"StructuredValue({kinds})"

    @property
    def parts(self) -> Any:
        """A dict, or a tuple where the parts have no names of their own."""
        if list(self._parts) == [f"_{i}" for i in range(len(self._parts))]:
            return tuple(self._parts.values())
        return self._parts

    def collect(self) -> Any:
        """Run the plan; a dict, or a tuple where the parts have no names."""
        from scalops.session import collect

        refuse_to_run("its value", "collect() runs nothing here: use its parts themselves")
        return collect(self)

    def forget(self) -> None:
        """Drop results kept from an earlier `collect()`."""
        for part in self._parts.values():
            part.forget()
