"""Identities of rows and columns: digests of how they come about, and what is in their place.

What has one identity has one content. What varies has none; what is not proved to stay, but may
settle, is `Presumed`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.tree import Node, digest_of


class Presumed(Enum):
    """In place of an identity: what is not proved to stay, but may settle."""

    SETTLING = "settling"
    GROWING = "growing"  # rows of the state and more, or fewer: they are never the same again


Identity = bytes | Presumed


@dataclass(frozen=True)
class Known:
    """Identities of a table's rows and columns; what varies has none.

    No column has one where the rows have none.
    """

    rows: Identity | None = None
    columns: Mapping[str, Identity] = field(default_factory=dict)

    def agreeing(self, other: Known) -> Known:
        """What is the same in both."""
        if self.rows is None or self.rows != other.rows:
            return VARYING
        same = {n: i for n, i in self.columns.items() if other.columns.get(n) == i}
        return Known(self.rows, same)

    def borne_out(self, following: Known) -> Known:
        """What may be presumed still, if the next iteration makes `following` of it."""
        rows = following.rows
        if rows is None or (isinstance(self.rows, Presumed) and rows is Presumed.GROWING):
            return VARYING
        return Known(self.rows, {n: i for n, i in self.columns.items() if n in following.columns})


VARYING = Known()


def from_all(*parts: object) -> Identity | None:
    """The identity of what comes about from these; None where one of them varies."""
    if any(p is None for p in parts):
        return None
    for presumed in (Presumed.GROWING, Presumed.SETTLING):
        if any(p is presumed for p in parts):
            return presumed
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


def sure(*parts: object) -> Identity:
    made = from_all(*parts)
    assert made is not None
    return made


def node_identity(node: Node, made: Mapping[Node, Identity]) -> Identity:
    """The identity of a node whose children have these identities, or their digests."""
    found: dict[Node, bytes] = {}
    for child in node.children:
        own = made.get(child, child.digest)
        if isinstance(own, Presumed):
            return Presumed.SETTLING
        found[child] = own
    return digest_of(node, lambda child: found[child])


def computed(found: Identity | None) -> Identity | None:
    """The identity of a value that is computed: of what is only presumed to stay it may vary."""
    return found if isinstance(found, bytes) else None


def hands_on(e: ex.Expression) -> bool:
    """Whether an expression gives values of columns as they are, the first that is not null."""
    if isinstance(e, ex.Call) and e.function.name in ("coalesce", "cast"):
        return all(map(hands_on, e.arguments))
    return isinstance(e, ex.Column | ex.Constant)


def known_ones(found: Mapping[str, Identity | None]) -> dict[str, Identity]:
    return {n: i for n, i in found.items() if i is not None}


def proved(known: Known) -> frozenset[str]:
    """The columns with an identity, of rows with one."""
    if not isinstance(known.rows, bytes):
        return frozenset()
    return frozenset(n for n, i in known.columns.items() if isinstance(i, bytes))


def presumed_of(known: Known, table: op.Operator) -> Known:
    """What is known, and of the rest that it settles."""
    settling = dict.fromkeys(table.schema.names, Presumed.SETTLING)
    if known.rows is None:
        return Known(Presumed.SETTLING, settling)
    return Known(known.rows, {**settling, **known.columns})


def growing(made: Known) -> Known:
    """More rows than the source has, or others: presumed ones are never the same again."""
    return Known(Presumed.GROWING, made.columns) if isinstance(made.rows, Presumed) else made


def distinct(made: Known) -> Known:
    """Rows of which no two are the same: they grow no more when there are no others."""
    return Known(Presumed.SETTLING, made.columns) if isinstance(made.rows, Presumed) else made


def rows_and_columns(rows: Identity | None, columns: Mapping[str, list[Identity | None]]) -> Known:
    """New rows, with columns that follow from them and from other identities."""
    if rows is None:
        return VARYING
    return Known(rows, known_ones({n: from_all(rows, *parts) for n, parts in columns.items()}))
