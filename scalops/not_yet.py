"""What the language has and this version has not: a PlanError that says so, never a surprise."""

from __future__ import annotations

from typing import NoReturn

from scalops.algebra.errors import PlanError, user_location

TABLE_METHODS: tuple[str, ...] = ()

FUNCTIONS = (
    "grad", "value_and_grad",
    "whatif",
)  # fmt: skip

OTHER = (
    "`filesystem=` of readers",
    "worker processes for whole plans, and clusters",
    "explain(analyze=True) and whatif",
)


def refuse(what: str) -> NoReturn:
    """Raise the PlanError of something that is not built yet."""
    raise PlanError(
        f"{what} is not yet built",
        location=user_location(),
        hint="the README lists what works in this version",
    )


def refuse_method(owner: str, name: str) -> None:
    """Raise for a method that the language has and this version has not."""
    if name in TABLE_METHODS:
        refuse(f"{owner}.{name}")
