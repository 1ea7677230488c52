"""Amounts of work, by the name of the machine's rate that they take."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

Amounts = Mapping[str, float]
NOTHING: Amounts = MappingProxyType({})


def added(*several: Amounts) -> Amounts:
    """All of them together."""
    total: dict[str, float] = {}
    for amounts in several:
        for name, amount in amounts.items():
            total[name] = total.get(name, 0.0) + amount
    return total


def scaled(amounts: Amounts, factor: float) -> Amounts:
    """So many of them; nothing that is zero."""
    return {name: factor * amount for name, amount in amounts.items() if factor * amount}
