"""Which logical tables the tables of a physical plan were made of: for estimates alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scalops.algebra.operators import Job, Operator
from scalops.algebra.tree import Node


@dataclass(frozen=True, eq=False)
class Origins:
    """The optimized job, and by physical table the logical one with the same records.

    No part of the plan's fingerprint. It stays where the plan was made: pickled, it is empty.
    """

    job: Job | None = None
    tables: Mapping[Node, Operator] = field(default_factory=dict)

    def __reduce__(self) -> Any:
        return Origins, ()


UNKNOWN = Origins()
