"""What happened when a plan ran, as text behind its tree: tables of at most 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

from scalops.algebra.explain import WIDTH
from scalops.algebra.figures import bytes_text, rows_text, seconds_text
from scalops.analyzing import MOST_OFF, Comparison, Figure
from scalops.engine.profiling import PARTS, LoopProfile, PlanProfile

_LABEL, _COLUMN = 30, 10  # 30 + 7 columns of 10 are 100
_MOST_NAMED = 5  # of estimates that are off, and of owners of memory


def summary(profile: PlanProfile, comparison: Comparison) -> str:
    """Sections, each with a heading: where the time went, iterations, caches, bytes, estimates."""
    sections = [
        _times(profile),
        _iterations(profile),
        _caches(profile),
        _moved(profile),
        _memory(profile),
        _off(comparison),
    ]
    return "\n\n".join("\n".join(lines) for lines in map(list, sections) if lines)


def _times(profile: PlanProfile) -> Iterator[str]:
    yield f"-- where the time went: {_total(profile)}"
    yield _row("", [*PARTS, "total"])
    yield from _spent("outside of loops", profile.once)
    for loop in profile.loops:
        many = f"{rows_text(loop.iterations)} iteration{'s' * (loop.iterations != 1)}"
        yield from _spent(f"{_name(loop)}, {many}", loop.parts)
    if profile.loops:
        yield from _spent("all", profile.parts)


def _total(profile: PlanProfile) -> str:
    if not profile.workers:
        threads = f"{profile.threads} thread{'s' * (profile.threads != 1)}"
        return f"{seconds_text(profile.total_seconds)}, in this process, on {threads} at most"
    workers = f"{profile.workers} worker{'s' * (profile.workers != 1)}"
    start = seconds_text(profile.start_seconds)
    return f"{seconds_text(profile.total_seconds)}, on {workers}, of which {start} until they began"


def _spent(label: str, parts: Mapping[str, float]) -> Iterator[str]:
    """Seconds by part, and their shares."""
    total = sum(parts.values())
    if total <= 0:
        return
    yield _row(label, [*(seconds_text(parts[n]) for n in PARTS), seconds_text(total)])
    yield _row("", [*(f"{parts[n] / total:.0%}" for n in PARTS), ""])


def _row(label: str, cells: list[str]) -> str:
    shown = label if len(label) <= _LABEL else label[: _LABEL - 1] + "…"
    return (shown.ljust(_LABEL) + "".join(c.rjust(_COLUMN) for c in cells)).rstrip()


def _name(loop: LoopProfile) -> str:
    named = loop.name and loop.name != "<lambda>"
    return f"loop {loop.index + 1}" + (f" {loop.name}" if named else "")


def _iterations(profile: PlanProfile) -> Iterator[str]:
    ran = [loop for loop in profile.loops if loop.iterations]
    if ran:
        yield "-- iterations"
    for loop in ran:
        own = loop.seconds
        shown = f"{_name(loop)}: {rows_text(own.count)}, the first {seconds_text(own.first)}"
        if own.count > 1:
            shown += (
                f"; later ones {seconds_text(own.median)} ±{own.relative:.0%}, the slowest"
                f" {seconds_text(own.slowest)} in iteration\N{NO-BREAK SPACE}{own.slowest_at}"
            )
        yield from _wrapped(shown)


def _caches(profile: PlanProfile) -> Iterator[str]:
    if profile.caches:
        yield "-- caches"
    for own in profile.caches:
        again = f"{rows_text(own.again)} made again" if own.again else "none made again"
        if own.file_bytes:
            again = f"{rows_text(own.file_reads)} from the cache file, {again}"
        held = f"{own.held} of {own.partitions} partitions held, {bytes_text(own.bytes)}"
        if own.file_bytes:
            held += f", and {bytes_text(own.file_bytes)} in a cache file"
        hits = f"{rows_text(own.hits)} reads of a partition from memory"
        yield from _wrapped(f"t{own.table}: {held}; {hits}, {again}")


def _moved(profile: PlanProfile) -> Iterator[str]:
    moved = profile.moved
    if not moved.total and not profile.spilled_bytes:
        return
    yield "-- bytes moved"
    if moved.total:
        yield from _wrapped(
            f"{bytes_text(moved.to_workers)} from the driver to workers,"
            f" {bytes_text(moved.to_driver)} from workers to the driver,"
            f" {bytes_text(moved.between_workers)} between workers"
        )
    if profile.spilled_bytes:
        files = sorted(profile.files.items(), key=lambda item: -item[1])
        shown = [f"{_owner(name)} {bytes_text(size)}" for name, size in files[:_MOST_NAMED]]
        more = f" and {len(files) - len(shown)} more" if len(files) > len(shown) else ""
        whose = f": {', '.join(shown)}{more}" if shown else ""
        size = bytes_text(profile.spilled_bytes)
        yield from _wrapped(f"{size} to disk, for which memory had no room{whose}")


def _memory(profile: PlanProfile) -> Iterator[str]:
    if not profile.peak:
        return
    of = "of the worker that held most" if profile.workers else "of this process"
    yield f"-- memory {of}"
    owners = sorted(profile.memory.items(), key=lambda item: -item[1])
    shown = [f"{_owner(name)} {bytes_text(size)}" for name, size in owners[:_MOST_NAMED]]
    left = len(owners) - len(shown)
    more = f" and {left} more" if left else ""
    yield from _wrapped(f"{bytes_text(profile.peak)} at most: {', '.join(shown)}{more}")
    if profile.lost:
        yield from _wrapped(f"lost meanwhile, with what they measured last: {len(profile.lost)}")


def _owner(name: str) -> str:
    word, _, number = name.partition(" ")
    kinds = {"cache": "cache t", "exchange": "table t"}
    return kinds[word] + number if word in kinds and number.isdigit() else name


def _off(comparison: Comparison) -> Iterator[str]:
    """How many estimates are off, and the worst."""
    figures = list(_named(comparison))
    known = [f for _, f in figures if f.off is not None]
    if not known:
        return
    off = sorted(((f.off or 1.0, n, f) for n, f in figures if f.is_off), key=lambda o: -o[0])
    yield "-- estimates"
    yield f"{len(off)} of {len(known)} are off by more than {MOST_OFF:g}x" + (":" if off else "")
    for factor, name, figure in off[:_MOST_NAMED]:
        told = f"{_text(figure, figure.estimated)} ({figure.provenance})"
        happened = f"{_text(figure, figure.actual)} in fact"
        yield from _wrapped(f"  {factor:.3g}x: {name}, {figure.words()}: {told}, {happened}")
    if len(off) > _MOST_NAMED:
        yield f"  and {len(off) - _MOST_NAMED} more, marked above"


def _named(comparison: Comparison) -> Iterator[tuple[str, Figure]]:
    for figure in comparison.plan:
        yield "the plan", figure
    for loop, own in comparison.loops.items():
        for figure in own:
            yield f"loop {loop + 1}", figure
    for stage, own in comparison.stages.items():
        for figure in own:
            yield f"stage {stage}", figure
    for (stage, number), own in comparison.operators.items():
        for figure in own:
            yield f"stage {stage}, operator {number}", figure


def _text(figure: Figure, number: float | None) -> str:
    number = number or 0.0
    if "seconds" in figure.what:
        return seconds_text(number)
    return bytes_text(number) if figure.what in ("bytes", "memory") else rows_text(number)


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, WIDTH, subsequent_indent="      ", break_on_hyphens=False)
