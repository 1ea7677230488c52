"""Figures of a plan's parts, as text: records, bytes, seconds, and where they come from.

Keys of `Display.figures`: `rows`, `bytes` delivered; `seconds_first` and `seconds` of the first and
of each later run, one of them where there is one run; `iterations`, `iterations_known` ("yes" or
"no"), `total_seconds` of a loop; `memory` in bytes, of a stage what it leaves there; for want of
room `spilled` or `filed` (a cache file) bytes are in files, and `again` bytes made again; `money`;
`provenance`: exact, measured, estimated or assumed, of the least certain of them;
`rows_provenance` that of rows and bytes. What happened has the prefix `actual_`, with
`actual_spread`: half of the distance between the quartiles of later runs' seconds, by their median;
`off` is by what factor the worst of them differs, if that is much, `off_in` which one it is, and
`off_too` those of other kinds (seconds, records, bytes) that are off too, as text.
"""

from __future__ import annotations

from collections.abc import Mapping

Figures = Mapping[str, float | str]
_WITHOUT_ROOM = {"spilled": "in files", "filed": "in a cache file", "again": "made again"}
_LONG = 360_000.0  # seconds, 100 h: from there on days tell more


def figure_lines(figures: Figures) -> list[tuple[str, str]]:
    """Labels and texts of what is estimated, and of what happened if that is known."""
    lines = []
    shown = _shown(figures, "")
    if shown:
        label = "estimate" if any(k.startswith("actual_") for k in figures) else "cost"
        lines.append((label, shown))
    happened = _shown(figures, "actual_")
    if happened:
        lines.append(("actual", happened + _off(figures)))
    return lines


def _off(figures: Figures) -> str:
    off, name, others = figures.get("off"), figures.get("off_in", ""), figures.get("off_too", "")
    if not isinstance(off, float):
        return ""
    return f"; off {off:.3g}x" + (f" in {name}" if name else "") + (f", {others}" if others else "")


def _shown(figures: Figures, prefix: str) -> str:
    """One line: records and bytes; seconds; the sum of a loop; memory and money."""

    def number(name: str) -> float | None:
        found = figures.get(prefix + name)
        return float(found) if isinstance(found, (int, float)) else None

    sizes = []
    if (rows := number("rows")) is not None:
        sizes.append(f"{rows_text(rows)} {'row' if rows == 1 else 'rows'}")
    if (count := number("bytes")) is not None and count > 0:
        sizes.append(bytes_text(count))
    parts = [", ".join(sizes) + _known(figures, prefix + "rows_provenance")] if sizes else []
    first, later = number("seconds_first"), number("seconds")
    if first is not None and later is not None:
        spread = number("spread")
        about = "" if spread is None else f" ±{spread:.0%}"
        one, other = seconds_text(first), seconds_text(later)
        shown = f"{one} each time" if one == other else f"{one} first, {other} later"
        parts.append(shown + about)
    elif first is not None or later is not None:
        parts.append(seconds_text(first or later or 0.0))
    if (total := number("total_seconds")) is not None:
        parts.append(_in_all(total, figures, prefix))
    if (memory := number("memory")) is not None:
        left = [(n, size) for n in _WITHOUT_ROOM if (size := number(n)) is not None]
        if left or not sizes:  # a stage that leaves all in memory has told how much that is
            # Arrays that are given are read where they are.
            is_none = memory == 0 and not prefix and not left
            shown = "no copies in memory" if is_none else f"{bytes_text(memory)} of memory"
            more = [f", {bytes_text(size)} {_WITHOUT_ROOM[n]}" for n, size in left]
            parts.append("".join([shown, *more]))
    if (money := number("money")) is not None:
        shown = "less than 0.0001" if 0 < money < 1e-4 else f"{money:.3g}"
        parts.append(f"{shown} of money")
    return "; ".join(parts) + _known(figures, prefix + "provenance") if parts else ""


def _known(figures: Figures, name: str) -> str:
    return f" ({figures[name]})" if name in figures else ""


def _in_all(total: float, figures: Figures, prefix: str) -> str:
    """The seconds of all iterations, of a plan's or of a loop's."""
    many = figures.get(prefix + "iterations")
    if not isinstance(many, (int, float)):
        start = figures.get(prefix + "start_seconds")
        of_it = ""
        if isinstance(start, (int, float)) and start > 0:
            of_it = f", {seconds_text(start)} of it until workers begin"
        return f"{seconds_text(total)} in all{of_it}"
    counted = f"{rows_text(many)} iteration{'' if many == 1 else 's'}"
    if figures.get(prefix + "iterations_known", "yes") == "yes":
        return f"{seconds_text(total)} for {counted}"
    return f"{seconds_text(total)} until converged, in an assumed {counted}"


def rows_text(count: float) -> str:
    """A number of records, its digits in groups of three."""
    return f"{count:,.0f}".replace(",", "_")


def seconds_text(seconds: float) -> str:
    """Seconds in a unit that gives few digits."""
    if seconds == 0:
        return "0 s"
    if seconds >= _LONG:
        days = seconds / 86400
        return f"{rows_text(days) if 999.5 <= days < 1e6 else format(days, '.3g')} d"
    if seconds >= 120:
        return f"{seconds / 60:.3g} min" if seconds < 3600 else f"{seconds / 3600:.3g} h"
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 0.9995:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def bytes_text(count: float) -> str:
    """Bytes in a unit that gives few digits."""
    for unit in ("B", "KB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
