"""Lines of a compiled loop, and what it takes from outside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import ArrayType

# Names that lines set and read themselves.
_LOCAL = re.compile(r"\b(?:[abcdhijkp]|[swx]\d+|a\d+_\d+)\b")
# The arrays in which a tile's values lie, by type.
ROOMS = {"float64": "f8", "float32": "f4", "int64": "i8", "int32": "i4", "bool": "b1"}


def zero(kind: str) -> str:
    """A float of a type: short, since the compiler's time goes by what the text says."""
    return "0.0" if kind == "float64" else "single_zero"


@dataclass(frozen=True)
class Place:
    """Where the values of a tile's records lie: those of element c from `offset` + c·tile on.

    Partials lie in arrays of their own, which no step reads.
    """

    kind: str
    offset: int
    partials: bool = False

    def at(self, index: str) -> str:
        """The element at a position of the tile."""
        whole = f"{self.offset} + {index}" if self.offset else index
        return f"{'a' if self.partials else ''}{ROOMS[self.kind]}[{whole}]"


@dataclass
class Inputs:
    """What a compiled function is given beside its room, in the order of its parameters.

    `columns`: names and types of a block's columns. `arrays`: vectors and matrices that are the
    same for all records, a matrix transposed where the flag says so. `numbers`: single numbers.
    """

    columns: list[tuple[str, ArrayType]] = field(default_factory=list)
    arrays: list[tuple[ex.Expression, bool]] = field(default_factory=list)
    numbers: list[ex.Expression] = field(default_factory=list)


class Lines:
    """Text with indentation."""

    def __init__(self, depth: int = 0) -> None:
        self.lines: list[str] = []
        self._depth, self._settled = depth, 0
        self._numbers = count()

    def settle(self) -> None:
        """Give what has been added names of its own.

        The compiler goes through the whole text for each name that is set in several places.
        """
        number = next(self._numbers)
        made = self.lines[self._settled :]
        self.lines[self._settled :] = [_LOCAL.sub(rf"\g<0>_{number}", line) for line in made]
        self._settled = len(self.lines)

    def add(self, *lines: str) -> None:
        """Lines at the present depth."""
        self.lines.extend("    " * self._depth + line for line in lines)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """What is added inside stands under `head`."""
        self.add(f"{head}:")
        self._depth += 1
        yield
        self._depth -= 1
