"""A value of several named parts, as a reduce of structured records gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from scalops.algebra.errors import SchemaError, user_location
from scalops.lazy import Lazy
from scalops.tracing import refuse_to_run
from scalops.value import Value


class StructuredValue(Lazy):
    """Parts by name or position: `v.loss`, `v["loss"]`, `v[0]`."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Mapping[str, Value]) -> None:
        self._parts = dict(parts)

    def __getattr__(self, name: str) -> Value:
        if name.startswith("__") or name == "_parts":
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, key: str | int) -> Value:
        names = list(self._parts)
        if isinstance(key, int) and -len(names) <= key < len(names):
            return self._parts[names[key]]
        if key in self._parts:
            return self._parts[str(key)]
        raise SchemaError(
            f"the value has no part {key!r}; its parts are {names}", location=user_location()
        )

    def __iter__(self) -> Iterator[Value]:
        return iter(self._parts.values())

    def __len__(self) -> int:
        return len(self._parts)

    def __repr__(self) -> str:
        return f"StructuredValue({', '.join(f'{n}: {v.type}' for n, v in self._parts.items())})"

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
