"""The command `scalops convert`: files of any format that can be read, to the fast ones.

All that `scalops --help` does not need is imported when it is used.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from scalops.cli.failures import ended_by_term, own_command

if TYPE_CHECKING:
    from scalops.engine.storage.files import File
    from scalops.table import Table

_FORMATS = ("csv", "tsv", "json", "text", "libsvm", "vw", "parquet", "ipc")
_TARGETS = {
    "ipc": (".ipc", ".arrow", ".feather"),
    "parquet": (".parquet", ".pq"),
}
_MOST_FEATURES = 2**31 - 1
_COUNTED = re.compile(r"(.*?)(\d+)")
# Arguments of readers, and the options that give them.
_OPTIONS = {
    "on_error": "--on-error",
    "delimiter": "--delimiter",
    "has_header": "--header",
    "column_names": "--column-names",
    "column_types": "--type",
    "n_features": "--n-features",
    "zero_based": "--zero-based",
    "bits": "--bits",
    "constant": "--constant",
}


class _Summary(NamedTuple):
    """What was done: `skipped` are the warnings of records that were passed over."""

    target: str
    records: int
    bytes_in: int
    bytes_out: int
    seconds: float
    skipped: tuple[str, ...]


@click.command(short_help="Write files in a format that is read fast.")
@click.argument("sources", metavar="IN...", nargs=-1, required=True)
@click.argument("target", metavar="OUT")
@click.option(
    "--from", "form", type=click.Choice(_FORMATS), help="The format of IN.  [default: by suffix]"
)
@click.option(
    "--to", type=click.Choice(tuple(_TARGETS)), help="The format of OUT.  [default: by suffix]"
)
@click.option("--columns", metavar="NAME,...", help="Read these alone.")
@click.option(
    "--vector",
    "vectors",
    metavar="NAME=A..B",
    multiple=True,
    help="Put columns of numbers together as one of vectors: x=f0..f99, or x=a,b,c.",
)
@click.option(
    "--compression",
    metavar="CODEC",
    help="Of OUT: lz4 or zstd, for Parquet also snappy,"
    " gzip, brotli; none.  [default: none; zstd for Parquet]",
)
@click.option(
    "--on-error",
    type=click.Choice(("raise", "skip", "null")),
    help="What to do with a record that cannot be read.  [default: raise]",
)
@click.option("--delimiter", metavar="C", help="Of CSV.  [default: ,]")
@click.option(
    "--header/--no-header",
    "has_header",
    default=None,
    help="Whether CSV begins with the names of columns.",
)
@click.option("--column-names", metavar="NAME,...", help="The names of the columns of CSV.")
@click.option(
    "--type",
    "column_types",
    metavar="NAME=TYPE",
    multiple=True,
    help="The type of a column of CSV or JSON: score=float64.",
)
@click.option(
    "--n-features",
    type=click.IntRange(1, _MOST_FEATURES),
    help="Elements of the vectors of libsvm, or of vw, whose names are indices then.",
)
@click.option("--zero-based", is_flag=True, default=None, help="Indices of libsvm count from 0.")
@click.option(
    "--bits",
    type=click.IntRange(1, 30),
    help="Hash names of vw to vectors of 2**BITS elements.  [default: 18]",
)
@click.option(
    "--constant", is_flag=True, default=None, help="Add Vowpal Wabbit's constant feature."
)
@click.option(
    "--partition-by",
    metavar="NAME,...",
    help="Write a folder, with a folder in it for each value of these columns.",
)
@click.option("--force", is_flag=True, help="Replace OUT.")
@click.option(
    "--progress/--no-progress",
    default=None,
    help="Show on standard error how far it is.  [default: on a terminal]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON document.")
@click.pass_context
def convert(ctx: click.Context, /, **values: Any) -> None:
    """Read files, a glob or a folder (IN, several are one table), and write them to OUT in a format
    that is read fast: Arrow IPC for .arrow, .ipc and .feather, Parquet for .parquet.

    OUT is written beside its place and moved there when it is complete. The memory that it takes is
    bounded: SCALOPS_MEMORY.
    """
    to = _target(values["target"], values["to"], ctx)
    options = _reader_options(values, ctx)
    vectors = dict(_vector(text, ctx) for text in values["vectors"])
    _check_compression(values["compression"], to, ctx)
    with own_command("Interrupted: nothing is written"), ended_by_term():
        _check_target(values["target"], values["force"], ctx)
        done = _converted(values, to, options, vectors, ctx)
    click.echo(_as_json(done) if values["as_json"] else _as_text(done))


# What the command line says.


def _target(path: str, to: str | None, ctx: click.Context) -> str:
    """ipc or parquet."""
    if to is not None:
        return to
    suffix = os.path.splitext(path)[1].lower()
    for name, suffixes in _TARGETS.items():
        if suffix in suffixes:
            return name
    known = ", ".join(s for suffixes in _TARGETS.values() for s in suffixes)
    raise click.UsageError(
        f"OUT is {_shown(path)}: give it one of the suffixes {known}, or give --to", ctx
    )


def _shown(path: str) -> str:
    """A path or URI without secrets."""
    from scalops.engine.storage.masking import without_secrets

    return without_secrets(path)


def _reader_options(values: dict[str, Any], ctx: click.Context) -> dict[str, Any]:
    """Those that were given, as the readers take them."""
    given = {name: values[name] for name in _OPTIONS if values[name] not in (None, ())}
    if "column_names" in given:
        given["column_names"] = _names(given["column_names"])
    if "column_types" in given:
        pairs = (_pair(text, "--type", "score=float64", ctx) for text in given["column_types"])
        given["column_types"] = _known_types(dict(pairs), ctx)
    if "delimiter" in given:
        from scalops.engine.storage.csv_format import check_delimiter

        given["delimiter"] = given["delimiter"].replace("\\t", "\t")
        with _option("--delimiter", ctx):
            check_delimiter(given["delimiter"])
    return given


@contextmanager
def _option(name: str, ctx: click.Context) -> Iterator[None]:
    """Turn what is wrong with the value of an option into a usage error."""
    from scalops.algebra.errors import ScalopsError

    try:
        yield
    except ScalopsError as error:
        error.location = None  # no line of a program
        raise click.BadParameter(str(error), ctx, param_hint=name) from error


def _known_types(types: dict[str, str], ctx: click.Context) -> dict[str, str]:
    from scalops.written_types import EXPECTED, written_type

    for name, kind in types.items():
        if written_type(kind) is None:
            raise click.BadParameter(
                f"{name}={kind}: there is no such type; {EXPECTED}", ctx, param_hint="--type"
            )
    return types


def _check_compression(codec: str | None, to: str, ctx: click.Context) -> None:
    from scalops.engine.storage.writers import ipc_format, parquet_format

    if codec is not None:
        with _option("--compression", ctx):
            (ipc_format if to == "ipc" else parquet_format)(codec)


def _check_target(target: str, force: bool, ctx: click.Context) -> None:
    """That OUT outlives this process, and is not there or to be replaced."""
    from pyarrow.fs import FileType

    from scalops.engine.storage.filesystems import located

    store, path = located(target)
    if store is not None and store.is_in_process:
        raise click.UsageError(
            f"OUT is {_shown(target)}, which would be gone when this command ends", ctx
        )
    if force:
        return
    there = os.path.lexists(path) if store is None else store.info(path).type != FileType.NotFound
    if there:
        raise click.UsageError(f"{_shown(target)} is there already: --force replaces it", ctx)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _pair(text: str, option: str, example: str, ctx: click.Context) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise click.UsageError(f"{option} {text}: write it as in {option} {example}", ctx)
    return name, value


def _vector(text: str, ctx: click.Context) -> tuple[str, list[str]]:
    """The name of a vector column, and the columns that it is made of.

    >>> _vector("x=f8..f10", None)
    ('x', ['f8', 'f9', 'f10'])
    """
    name, columns = _pair(text, "--vector", "x=f0..f99", ctx)
    first, dots, last = columns.partition("..")
    if not dots:
        return name, _names(columns)
    ends = _COUNTED.fullmatch(first), _COUNTED.fullmatch(last)
    if ends[0] is None or ends[1] is None or ends[0][1] != ends[1][1]:
        raise click.UsageError(
            f"--vector {text}: the names at both ends of '..' differ by a number alone: f0..f99",
            ctx,
        )
    begin, end = int(ends[0][2]), int(ends[1][2])
    if begin > end:
        raise click.UsageError(f"--vector {text}: {begin} comes after {end}", ctx)
    return name, [f"{ends[0][1]}{number}" for number in range(begin, end + 1)]


# Converting.


def _converted(
    values: dict[str, Any],
    to: str,
    options: dict[str, Any],
    vectors: dict[str, list[str]],
    ctx: click.Context,
) -> _Summary:
    from scalops.cli.convert_progress import watched
    from scalops.configuration import COMMAND_LINE
    from scalops.session import Session

    target, begin = values["target"], perf_counter()
    # On workers, of which each may have other files, there is nothing to gain.
    with Session({"workers": 0, "processes": 0}, COMMAND_LINE), _warnings() as skipped:
        read = _read(values, options, ctx)
        _check_apart(_source(read).files, target, ctx)
        with watched(read, values["progress"], sys.stderr) as table:
            with _option("--vector", ctx):
                made = table.assemble(**vectors) if vectors else table
            getattr(made, f"write_{to}")(target, **_writer_options(values))
        records, size = _written(target, to)
    return _Summary(
        _shown(target), records, _source(read).bytes, size, perf_counter() - begin, tuple(skipped)
    )


def _writer_options(values: dict[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if values["compression"] is not None:
        none = values["compression"] == "none"
        given["compression"] = None if none else values["compression"]
    if values["partition_by"] is not None:
        given |= {"partition_by": _names(values["partition_by"]), "overwrite": values["force"]}
    return given


def _read(values: dict[str, Any], options: dict[str, Any], ctx: click.Context) -> Table:
    """The table of the files. A usage error for an option that the format does not have."""
    import inspect

    import scalops as so
    from scalops.engine import storage
    from scalops.table import Table

    sources = values["sources"]
    path = sources[0] if len(sources) == 1 else list(sources)
    name = f"read_{values['form']}" if values["form"] else storage.reader_of(path).__name__
    if name == "read_tsv":
        name, options = "read_csv", {"delimiter": "\t", **options}
    reader = getattr(so, name)
    unknown = [o for o in options if o not in inspect.signature(reader).parameters]
    if unknown:
        raise click.UsageError(
            f"{_OPTIONS[unknown[0]]} does not go with {name.removeprefix('read_')}", ctx
        )
    columns = None if values["columns"] is None else _names(values["columns"])
    plan = reader(path, columns=columns, **options).plan
    return Table(replace(plan, location=None))  # no line of a program


def _check_apart(files: Sequence[File], target: str, ctx: click.Context) -> None:
    """That OUT is none of the files that are read, nor a folder of theirs."""
    from scalops.engine.storage.filesystems import located

    store, path = located(target)
    for file in files:
        if file.store is None and store is None:
            own, other = os.path.realpath(file.path), os.path.realpath(path)
        elif file.store is not None and file.store == store:
            own, other = file.within, path
        else:
            continue
        if f"{own}/".startswith(f"{other.rstrip('/')}/"):
            raise click.UsageError(
                f"OUT is {_shown(target)}, and {file.path} is read from there: write to another"
                " place",
                ctx,
            )


def _written(target: str, to: str) -> tuple[int, int]:
    """Records and bytes of what was written, by its footers."""
    from scalops.engine import storage

    source = {"ipc": storage.read_ipc, "parquet": storage.read_parquet}[to](target)
    assert source.rows is not None
    return source.rows, source.bytes


def _source(table: Table) -> Any:
    plan: Any = table.plan
    return plan.source


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What is said meanwhile of records that were passed over."""
    found: list[str] = []
    handler = _Listed(found)
    logger = logging.getLogger("scalops")
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


class _Listed(logging.Handler):
    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        self._found.append(record.getMessage())


# The summary.


def _as_json(done: _Summary) -> str:
    import json

    return json.dumps(done._asdict())


def _as_text(done: _Summary) -> str:
    from scalops.algebra.explain import bytes_text

    rate = done.bytes_in / 1e6 / max(done.seconds, 1e-9)
    many = "" if done.records == 1 else "s"
    lines = [
        f"{done.target}: {done.records:,} record{many},"
        f" {bytes_text(done.bytes_in)} read, {bytes_text(done.bytes_out)} written,"
        f" {done.seconds:.3g} s, {rate:.3g} MB/s",
        *done.skipped,
    ]
    return "\n".join(lines)
