"""Fingerprints: what a plan computes, in 16 bytes that are the same in another process.

A node's own digest tells structures apart within a process: it holds loop tokens and the
tokens of memory tables. Here loops are numbered by their place in the plan and sources stand
by their stamp, so that two processes that build the same plan over the same data agree.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import fields

from scalops.algebra.expressions import Bound, Captured, Iteration, State
from scalops.algebra.operators import Loop
from scalops.algebra.relations import StateTable
from scalops.algebra.tree import Node, feed, walk

FORMAT_VERSION = 1


def fingerprint(*roots: Node, data: bool = True) -> str:
    """32 hexadecimal digits, by structure, constants, captured functions and source stamps.

    Without `data` sources stand by their titles: what is left is the program.
    """
    return _digest(roots, payloads=True, data=data).hex()


def comparable(root: Node) -> bytes:
    """A digest that leaves out captured functions' bytes.

    Two traces of one function pickle the same code, but not always to the same bytes.
    """
    return _digest((root,), payloads=False)


# cloudpickle names a user's class by a random number of its own in each process.
_CLASS_NUMBER = re.compile(rb"[0-9a-f]{32}")


def _stable(captured: Captured) -> tuple[str, bytes, bool]:
    return captured.name, _CLASS_NUMBER.sub(b"", captured.payload), captured.batch


def _digest(roots: tuple[Node, ...], payloads: bool, data: bool = True) -> bytes:
    order = list(walk(*roots))
    loops = [n for n in order if isinstance(n, Loop)]
    numbers = {loop.token: i for i, loop in enumerate(loops)}
    digests: dict[Node, bytes] = {}
    for node in order:
        state = hashlib.blake2b(type(node).__name__.encode(), digest_size=16)
        for item in fields(node):
            if not item.compare:
                continue
            value = getattr(node, item.name)
            if isinstance(node, (Loop, State, Bound, Iteration, StateTable)) and item.name in (
                "token",
                "loop",
            ):
                value = numbers.get(value, value)
            elif hasattr(value, "stamp"):  # a source, in a logical or physical scan
                value = (value.title, value.stamp if data else "")
            elif item.name == "key" and type(node).__name__ in ("Cache", "CacheTable"):
                value = bool(value)  # a name for what its input says, with this process's tokens
            elif isinstance(value, Captured):
                value = _stable(value) if payloads else (value.name, str(value.location))
            feed(value, state.update, digests.__getitem__)
        digests[node] = state.digest()
    final = hashlib.blake2b(f"plan {FORMAT_VERSION}".encode(), digest_size=16)
    for root in roots:
        final.update(digests[root])
    return final.digest()
