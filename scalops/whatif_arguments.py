"""Numbers, times, prices and ranges as a person writes them, for `so.whatif` and its command."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from scalops.algebra.errors import ConfigError
from scalops.optimizer.costs.integer_plan import MOST_MACHINES
from scalops.optimizer.costs.whatif import SWEPT

LETTERS = {
    "records": "R", "map": "P", "load": "D", "cache": "M", "aggregate": "A", "broadcast": "B",
    "level": "L", "iterations": "K",
}  # fmt: skip
STEPS = 13  # of a sweep from one value to another
_NUMBER = r"([0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)(e[+-]?[0-9]+)?"
_QUANTITY = re.compile(rf"{_NUMBER}\s*([a-zµμ]*)", re.IGNORECASE)
_MANY = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_TIMES = {
    "": 1.0, "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0,
    "min": 60.0, "h": 3600.0, "d": 86_400.0,
}  # fmt: skip
_COUNTS = ("records", "cache", "iterations")


def read_number(name: str, value: Any) -> float:
    """A symbol, deadline or budget of this name: a number, or text with a unit.

    Counts may end in k, M, G, T (thousands to millions of millions), times in ns, us, ms, s, min,
    h, d; a price in /h. Raises ConfigError.
    """
    if isinstance(value, str):
        return _READ.get(name, _time)(name, value.strip())
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        _refuse(name, value)
    if isinstance(value, (bool, bytes)) or math.isnan(number):
        _refuse(name, value)
    return number


def _refuse(name: str, value: Any) -> NoReturn:
    raise ConfigError(f"{name} is {value!r}; expected {_EXPECTED.get(name, _A_TIME)}")


def _quantity(name: str, text: str, units: Mapping[str, float]) -> float:
    found = _QUANTITY.fullmatch(text)
    unit = found[3].lower() if found else ""
    if found is None or unit not in units or (unit == "m" and units is _TIMES):
        _refuse(name, text)
    number = float(found[1].replace("_", "") + (found[2] or "")) * units[unit]
    return number if math.isfinite(number) else _refuse(name, text)


def _count(name: str, text: str) -> float:
    if name == "cache" and text.lower() in ("inf", "all"):
        return math.inf
    return _quantity(name, text, _MANY)


def _time(name: str, text: str) -> float:
    return _quantity(name, text, _TIMES)


def _plain(name: str, text: str) -> float:
    return _quantity(name, text, _MANY)


def _price(name: str, text: str) -> float:
    return _quantity(name, re.sub(r"\s*/\s*h$", "", text), {"": 1.0})


_A_TIME = "seconds, or a time such as '10us', '0.05s', '2h'"
_A_COUNT = "a number such as 1e8 or '100M'"
_EXPECTED = {
    "records": _A_COUNT,
    "cache": _A_COUNT + ", or 'all'",
    "iterations": _A_COUNT,
    "price": "the price of a machine for an hour, such as 0.5 or '0.50/h'",
    "budget": "an amount of money, or of machine-seconds where there is no price",
}
_READ: dict[str, Callable[[str, str], float]] = {
    **dict.fromkeys(_COUNTS, _count),
    "price": _price,
    "budget": _plain,
}


def read_machines(value: Any) -> tuple[int, ...]:
    """Machine counts: ints, or text as in '1..500', '1,2,4,8', '16', '1..10,20'."""
    expected = f"machine counts from 1 to {MOST_MACHINES:,}, as in 1..500 or 1,2,4,8"
    if isinstance(value, str):
        parts = [_range(part, value, expected) for part in value.split(",")]
        return tuple(sorted({n for part in parts for n in part}))
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    if not isinstance(value, Iterable):
        raise ConfigError(f"machines is {value!r}; expected {expected}")
    return tuple(value)


def _range(part: str, whole: str, expected: str) -> range:
    found = re.fullmatch(r"\s*([0-9_]+)\s*(?:\.\.\s*([0-9_]+)\s*)?", part)
    try:
        low = int(found[1]) if found else 0
        high = int(found[2]) if found and found[2] else low
    except ValueError:  # underscores only, or more digits than Python reads
        low = high = 0
    if not 1 <= low <= high <= MOST_MACHINES:
        raise ConfigError(f"machines is {whole!r}; expected {expected}")
    return range(low, high + 1)


def read_sweep(value: Any) -> tuple[str, tuple[float, ...]]:
    """A constant and its values: 'cache=1e6..1e8', 'cache=1e6,2e6', or {'cache': [1e6, 2e6]}.

    A range has 13 values of equal ratios. Letters may stand for symbols, as in 'M=1e6..1e8'.
    """
    expected = "as in 'cache=1e6..1e8' or 'aggregate=0.1s,0.2s'"
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, values),) = value.items()
        own = _swept_name(name)
        listed = values if isinstance(values, Iterable) else [values]
        return own, _some(own, tuple(read_number(own, v) for v in listed), value)
    if not isinstance(value, str) or value.count("=") != 1:
        raise ConfigError(f"sweep is {value!r}; expected one constant and its values, {expected}")
    name, text = value.split("=")
    own = _swept_name(name.strip())
    if ".." not in text:
        return own, _some(own, tuple(read_number(own, v) for v in text.split(",")), value)
    ends = [read_number(own, v) for v in text.split("..", 1)]
    low, high = ends
    if not 0 < low < high < math.inf:
        raise ConfigError(
            f"sweep is {value!r}; expected a range from more than 0 to more than that, {expected}"
        )
    ratio = high / low
    return own, (*(low * ratio ** (i / (STEPS - 1)) for i in range(STEPS - 1)), high)


def _some(name: str, values: tuple[float, ...], given: Any) -> tuple[float, ...]:
    if not values:
        raise ConfigError(f"sweep is {given!r}; expected at least one value of {name}")
    return values


def _swept_name(name: Any) -> str:
    text = str(name)
    by_letter = {letter: own for own, letter in LETTERS.items()}
    own = by_letter.get(text, text.replace("-", "_").removesuffix("_overhead"))
    if own not in SWEPT:
        raise ConfigError(f"sweep names {text!r}; expected one of {list(SWEPT)}")
    return own
