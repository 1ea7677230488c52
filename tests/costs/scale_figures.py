"""The figures of docs/images: time and cost over machines, by the cost model and simulated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from scalops.optimizer.costs import closed_form
from scalops.optimizer.costs.symbols import Symbols

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLOSED, PLANNED, SIMULATED, MARK = "#0a58ca", "#2f9e44", "#d9480f", "#495057"
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.facecolor": "white",  # a card of its own: pages may be light or dark
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.fonttype": "none",  # letters, not outlines: a third of the size
    "svg.hashsalt": "scalops",  # the same file each time
}


class Curve(NamedTuple):
    """Seconds of an iteration over machine counts, or over records."""

    at: Sequence[float]
    seconds: Sequence[float]


@dataclass(frozen=True)
class Scaling:
    """A program over machine counts: as planned, and as simulated with the plans' trees."""

    title: str
    symbols: Symbols
    planned: Curve
    simulated: Curve


class Caching(NamedTuple):
    """Seconds over records where memory is filled in part, and where all or nothing is in it.

    `fits`: records that all machines' caches hold.
    """

    partly: Curve
    all_or_nothing: Curve
    fits: float


def draw(
    folder: Path,
    times: Sequence[Scaling],
    costs: Sequence[Scaling],
    caching: Caching,
    regimes: Sequence[tuple[str, Symbols]],
) -> list[Path]:
    """Write the figures, with a panel for each item; their paths."""
    return [
        figure(folder / "time-over-machines.svg", times, _time),
        figure(folder / "cost-over-machines.svg", costs, _cost),
        figure(folder / "caching-over-data.svg", [caching], _caching),
        figure(folder / "regimes.svg", regimes, _regimes),
    ]


def figure(path: Path, items: Sequence[Any], panel: Callable[[Axes, Any], None]) -> Path:
    """One file: a panel for each item, in rows of two at most."""
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(2, len(items))
    rows = -(-len(items) // columns)
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        made = Figure((4.1 * columns if columns > 1 else 5.6, 3.0 * rows), layout="constrained")
        for i, item in enumerate(items):
            axes = made.add_subplot(rows, columns, i + 1)
            panel(axes, item)
            if i % columns:
                axes.set_ylabel("")
        path.parent.mkdir(parents=True, exist_ok=True)
        made.savefig(path, metadata={"Date": None, "Creator": None})
    return path


def _range(most: float, least: float = 1.0, points: int = 60) -> list[float]:
    """Real numbers in a geometric series."""
    ratio = most / least
    return [least * ratio ** (i / (points - 1)) for i in range(points)]


def _axes(axes: Axes, title: str, over: str, shown: str) -> None:
    axes.set(title=title, xscale="log", yscale="log", xlabel=over, ylabel=shown)
    axes.minorticks_off()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")


def _mark(axes: Axes, at: float, height: float, text: str, color: str, below: bool = True) -> None:
    """A point, and what it is."""
    axes.plot([at], [height], "o", color=color, markersize=6, markeredgecolor="white", zorder=5)
    axes.annotate(
        text,
        (at, height),
        (0, -9) if below else (5, 5),
        textcoords="offset points",
        ha="center" if below else "left",
        va="top" if below else "bottom",
        color=color,
        fontsize=8,
    )


def _kink(axes: Axes, symbols: Symbols) -> None:
    """Where all records begin to be in memory."""
    kink = symbols.records / symbols.cache
    if kink > 1:
        axes.axvline(kink, color=MARK, linestyle=":", linewidth=1)
        place = axes.get_xaxis_transform()
        text = f" R/M = {kink:g}"
        axes.text(kink, 0.98, text, transform=place, va="top", color=MARK, fontsize=8)


def _curves(axes: Axes, scaling: Scaling, value: Callable[[float, float], float]) -> None:
    """The closed form, the planner and the simulation, in one panel."""
    for curve, form, color, name in (
        (_closed(scaling), "-", CLOSED, "closed form"),
        (scaling.planned, "-", PLANNED, "planner"),
        (scaling.simulated, ".", SIMULATED, "simulation"),
    ):
        shown = [value(n, s) for n, s in zip(*curve, strict=True)]
        axes.plot(curve.at, shown, form, color=color, label=name, linewidth=1.4, markersize=5)


def _closed(scaling: Scaling) -> Curve:
    machines = _range(max(scaling.planned.at))
    return Curve(machines, [closed_form.seconds(scaling.symbols, n) for n in machines])


def _time(axes: Axes, scaling: Scaling) -> None:
    """Seconds per iteration, with the optimum of the closed form and of the simulation."""
    _axes(axes, scaling.title, "machines", "seconds per iteration")
    _curves(axes, scaling, lambda machines, seconds: seconds)
    fastest = closed_form.fastest(scaling.symbols)
    seconds = closed_form.seconds(scaling.symbols, fastest)
    if fastest <= max(scaling.planned.at):
        _mark(axes, fastest, seconds, f"{round(fastest, 1):g}", CLOSED, below=False)
    best = min(zip(*scaling.simulated, strict=True), key=lambda p: p[1])
    _mark(axes, *best, f"{best[0]:g}", SIMULATED)
    _kink(axes, scaling.symbols)
    axes.legend(loc="lower left", fontsize=8)


def _cost(axes: Axes, scaling: Scaling) -> None:
    """Machine-seconds per iteration, with the cheapest of the closed form and of the simulation."""
    _axes(axes, scaling.title, "machines", "machine-seconds per iteration")
    _curves(axes, scaling, lambda machines, seconds: machines * seconds)
    cheapest = closed_form.cheapest(scaling.symbols)
    cost = closed_form.machine_seconds(scaling.symbols, cheapest)
    _mark(axes, cheapest, cost, f"{cheapest:.3g}", CLOSED, below=False)
    best = min(((n, n * s) for n, s in zip(*scaling.simulated, strict=True)), key=lambda p: p[1])
    _mark(axes, *best, f"{best[0]:g}", SIMULATED)
    _kink(axes, scaling.symbols)
    axes.legend(loc="lower right", fontsize=8)


def _caching(axes: Axes, item: Caching) -> None:
    """Seconds per iteration over records."""
    partly, all_or_nothing, fits = item
    axes.set(xlabel="records, by what all caches hold", ylabel="seconds per iteration")
    for curve, color, name in (
        (all_or_nothing, SIMULATED, "all or nothing"),
        (partly, CLOSED, "as much as there is room for"),
    ):
        axes.plot([r / fits for r in curve.at], curve.seconds, color=color, label=name)
    axes.axvline(1.0, color=MARK, linestyle=":", linewidth=1)
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", fontsize=8)


def _regimes(axes: Axes, item: tuple[str, Symbols]) -> None:
    """The closed form: what is spent on what; shaded where caches do not hold all records."""
    title, symbols = item
    _axes(axes, title, "machines", "seconds per iteration")
    machines = _range(1e4)
    parts = [closed_form.parts(symbols, n) for n in machines]
    axes.plot(machines, [p.total for p in parts], color="black", linewidth=1.8, label="all")
    for name, color in (("map", PLANNED), ("load", SIMULATED), ("aggregate", CLOSED)):
        shown = [getattr(p, name) or math.nan for p in parts]
        axes.plot(machines, shown, color=color, linewidth=1, label=name)
    kink = max(1.0, symbols.records / symbols.cache)
    axes.axvspan(1, min(kink, 1e4), color=SIMULATED, alpha=0.07, linewidth=0)
    for name in ("cheapest", "fastest"):
        found = getattr(closed_form, name)(symbols)
        seconds = closed_form.seconds(symbols, found)
        _mark(axes, found, seconds, f"{name} {found:.3g}", MARK, below=name == "fastest")
    axes.set_ylim(min(p.total for p in parts) / 30, max(p.total for p in parts) * 4)
    axes.legend(loc="upper right", fontsize=8, ncols=2)
