"""Immutable nodes and the only traversal.

Operators and expressions are nodes of one graph: an expression may read the result of an
operator, an operator holds expressions. A node's children are found from its fields. Shared
inputs are visited once, and no traversal here recurses, so neither wide sharing (`x = x + x`,
fifty times) nor depth (an unrolled loop) costs more than its size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import numpy as np

from scalops.algebra.errors import Location
from scalops.algebra.sparse import SparseVector

N = TypeVar("N", bound="Node")
Digest = Callable[["Node"], bytes]


@dataclass(frozen=True, eq=False, repr=False)
class Node:
    """A frozen dataclass that is compared by structure.

    Equality and hash come from a digest over the class, the fields and the children's digests,
    computed when the node is built. Fields declared with `compare=False` (the user's line, a
    label) take no part. A subclass refuses invalid inputs in `check`.
    """

    location: Location | None = field(default=None, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        self.check()
        children: list[Node] = []
        for item in fields(self):
            _collect(getattr(self, item.name), children)
        self.__dict__["_children"] = tuple(children)
        self.__dict__["_digest"] = digest_of(self, lambda child: child.digest)

    def check(self) -> None:
        """Raise if the fields do not fit together."""

    @property
    def children(self) -> tuple[Node, ...]:
        """Every node held by a field, in field order."""
        children: tuple[Node, ...] = self.__dict__["_children"]
        return children

    @property
    def digest(self) -> bytes:
        """16 bytes that are equal for nodes of equal structure."""
        digest: bytes = self.__dict__["_digest"]
        return digest

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Node) and self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.digest[:4].hex()}>"

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()


def digest_of(node: Node, child_digest: Digest) -> bytes:
    """The digest of a node, given its children's."""
    state = hashlib.blake2b(type(node).__name__.encode(), digest_size=16)
    for item in fields(node):
        if item.compare:
            feed(getattr(node, item.name), state.update, child_digest)
    return state.digest()


def feed(value: Any, update: Callable[[bytes], None], child_digest: Digest) -> None:
    """Feed a field's value to a hash: nodes by digest, arrays by content, the rest by repr."""
    if isinstance(value, Node):
        update(child_digest(value))
    elif isinstance(value, (tuple, list)):
        update(b"(%d" % len(value))
        for item in value:
            feed(item, update, child_digest)
    elif isinstance(value, (np.ndarray, np.generic)):
        array = np.ascontiguousarray(value)
        update(f"{array.dtype}{np.shape(value)}".encode())
        update(repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
    elif isinstance(value, bytes):
        update(value)
    elif isinstance(value, SparseVector):
        update(f"{value.type}".encode())
        feed((value.indices, value.values), update, child_digest)
    else:
        update(f"{type(value).__name__}{value!r};".encode())


def _collect(value: Any, into: list[Node]) -> None:
    if isinstance(value, Node):
        into.append(value)
    elif isinstance(value, tuple):
        for item in value:
            _collect(item, into)


def walk(*roots: Node, enter: Callable[[Node], bool] = lambda node: True) -> Iterator[Node]:
    """Every node once, children before parents; not those that `enter` refuses."""
    seen: set[Node] = set()
    stack: list[tuple[Node, bool]] = [(root, False) for root in reversed(roots)]
    while stack:
        node, entered = stack.pop()
        if node in seen or not enter(node):
            continue
        if entered:
            seen.add(node)
            yield node
        else:
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(node.children))


def transform(
    root: N, change: Callable[[Node], Node], enter: Callable[[Node], bool] = lambda node: True
) -> N:
    """Replace nodes bottom-up by `change(node)`.

    `change` sees a node whose children are already replaced. Subtrees whose root `enter`
    refuses are left alone. The same object comes back where nothing changed. A shared node
    is changed once.
    """
    done: dict[Node, Node] = {}
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, entered = stack.pop()
        if node in done:
            continue
        if not enter(node):
            done[node] = node
        elif entered:
            done[node] = change(with_children(node, done))
        else:
            stack.append((node, True))
            stack.extend((child, False) for child in node.children)
    return done[root]  # type: ignore[return-value]


def with_children(node: N, new: dict[Node, Node]) -> N:
    """The node with each child replaced by `new[child]`; the same object if none differs."""
    if all(new[child] == child for child in node.children):
        return node
    changes = {}
    for item in fields(node):
        old = getattr(node, item.name)
        value = _replaced(old, new)
        if value is not old:
            changes[item.name] = value
    return replace(node, **changes)


def _replaced(value: Any, new: dict[Node, Node]) -> Any:
    if isinstance(value, Node):
        return new[value]
    if isinstance(value, tuple):
        items = tuple(_replaced(item, new) for item in value)
        return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
    return value


def substitute(
    root: N, mapping: dict[Node, Node], enter: Callable[[Node], bool] = lambda node: True
) -> N:
    """Replace every occurrence of the mapping's keys by its values, largest first.

    Subtrees whose root `enter` refuses are left alone.
    """
    if not mapping:
        return root
    if root in mapping:
        return mapping[root]  # type: ignore[return-value]
    done: dict[Node, Node] = dict(mapping)
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, entered = stack.pop()
        if node in done:
            continue
        if not enter(node):
            done[node] = node
        elif entered:
            done[node] = with_children(node, done)
        else:
            stack.append((node, True))
            stack.extend((child, False) for child in node.children)
    return done[root]  # type: ignore[return-value]


def find(roots: Iterable[Node], kind: type[N]) -> list[N]:
    """Every node of a class below the roots, once each, children first."""
    return [node for node in walk(*roots) if isinstance(node, kind)]
