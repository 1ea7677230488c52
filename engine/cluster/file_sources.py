"""Files that ranks read themselves: the same ones on every host, and what was bad in them."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from scalops.algebra.errors import DataError, ExecutionError, ScalopsError
from scalops.algebra.tree import Node, find
from scalops.engine import physical_plan as pp
from scalops.engine.storage.file_source import FileFormat, FileSource
from scalops.engine.storage.files import File
from scalops.engine.storage.text_contents import TextContents

_REMEMBERED = 64  # sources


def file_scans(roots: Sequence[Node]) -> list[pp.TableScan]:
    """The scans of files below stages or tables, one for each source, in their order."""
    scans: dict[int, pp.TableScan] = {}
    for scan in find(roots, pp.TableScan):
        if isinstance(scan.source, FileSource):
            scans.setdefault(id(scan.source), scan)
    return list(scans.values())


def check_files(roots: Sequence[Node]) -> None:
    """Raise DataError where a file is not, on this host, what a plan was made from."""
    for scan in file_scans(roots):
        try:
            _check(scan.source)
        except ScalopsError as error:
            raise DataError(
                f"on {socket.gethostname()}: {error.found}",
                location=scan.location,
                hint="every host must have the same files, of the same times, under the same paths",
            ) from error


def _check(source: FileSource) -> None:
    source.check_unchanged()
    told = source.inspected
    columns = None if source.columns is None else told.schema.columns
    known = told.digest, str(told.schema)
    form: Any = source.format
    if _inspected(form, source.files, columns) != known:
        paths = ", ".join(file.path for file in source.files[:3])
        raise DataError(f"{paths} holds other records than when the table was made")


@lru_cache(_REMEMBERED)
def _inspected(
    format: FileFormat, files: tuple[File, ...], columns: tuple[str, ...] | None
) -> tuple[str, str]:
    """What heads and footers tell; files of the same size and time are not read again."""
    found = format.inspect(files, columns)
    return found.digest, str(found.schema)


# Bad records are counted where they are read, and reported where the table was made.


def may_pass_over(plan: pp.PhysicalPlan) -> bool:
    """Whether the plan reads files of which bad records are passed over."""
    sources = [scan.source.contents for scan in file_scans(plan.stages)]
    return any(isinstance(c, TextContents) and c.on_error != "raise" for c in sources)


def bad_records_of(plan: pp.PhysicalPlan) -> list[Any]:
    """What was passed over at this rank, by file source of the plan, as data; then forgotten."""
    sources = [scan.source.contents for scan in file_scans(plan.stages)]
    return [c.bad.given_up() if isinstance(c, TextContents) else [] for c in sources]


def note_bad_records(plan: pp.PhysicalPlan, found: Sequence[Any]) -> None:
    """Count at the driver what a rank has passed over. Raises ExecutionError for nonsense."""
    scans = file_scans(plan.stages)
    try:
        for scan, items in zip(scans, found, strict=True):
            if isinstance(scan.source.contents, TextContents):
                scan.source.contents.bad.take_over(items)
    except (ValueError, TypeError) as error:
        raise ExecutionError(f"what a rank tells of bad records makes no sense: {error}") from error
