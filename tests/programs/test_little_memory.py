"""The shared programs give the same bits with a quarter of their data's memory, and with 20 KB."""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import scalops as so
from scalops.algebra.operators import Job, Scan
from scalops.algebra.tree import find
from scalops.results import take_leaves
from tests.programs.test_shared_programs import FEW, PROGRAMS, bits, load
from tests.quick import quick

LEAST = 20_000  # bytes, for any data


@cache
def in_memory(path: Path) -> tuple[Any, int]:
    """The result with all the memory that it wants, and the bytes of what the program reads."""
    returned = load(path).main(**FEW.get(path.stem, {}))
    with so.session():
        return bits(so.collect(returned)), bytes_read(returned)


def bytes_read(returned: Any) -> int:
    """Of files as they lie on disk, of tables in memory as they lie there."""
    nodes: list[Any] = []
    for leaf in take_leaves(returned):
        if isinstance(leaf, so.Loop):
            nodes.append(leaf.loop_plan)
        else:
            nodes.append(leaf.plan if isinstance(leaf, so.Table) else leaf.expression)
    sources: dict[int, Any] = {id(s.source): s.source for s in find((Job(tuple(nodes)),), Scan)}
    return sum(source.bytes for source in sources.values())


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the programs leave files open
@pytest.mark.parametrize(
    ("name", "workers", "part"),
    quick(
        sorted(
            product(PROGRAMS, (0, 2), (4, None)),
            key=lambda case: case != ("books_and_authors", 0, 4),
        ),
        1,
    ),
)
def test_a_quarter_of_its_data_is_memory_enough(
    name: str,
    workers: int,
    part: int | None,
    shared_programs: Path,
    shared_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(shared_programs)
    path = shared_programs / f"{name}.py"
    expected, size = in_memory(path)
    memory = LEAST if part is None else size // part
    monkeypatch.setenv("SCALOPS_MEMORY", str(memory))
    with so.session(**({"workers": workers} if workers else {})) as session:
        assert session.options.memory == memory
        assert bits(so.collect(load(path).main(**FEW.get(name, {})))) == expected
