"""The command `scalops calibrate`: measures this machine, and shows what is stored of it.

All that `scalops --help` does not need is imported when it is used.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import time
from typing import TYPE_CHECKING, Any

import click

from scalops.busy import busy_text
from scalops.cli.failures import ended_by_term, own_command

if TYPE_CHECKING:
    from collections.abc import Callable

    from scalops.engine.calibration.measurement import Outcome, Probe
    from scalops.optimizer.costs.machine import Machine, Rate
    from scalops.profiles import Profile

_LEAST_COLUMNS, _MOST_COLUMNS = 80, 100
_SCALES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_SHORT = {
    "bytes/s": "B/s",
    "flops/s": "flop/s",
    "records/s": "rec/s",
    "elements/s": "elem/s",
    "calls/s": "call/s",
}
_MARGIN = "  "


def options() -> list[click.Option]:
    """Those of the command without a program."""
    return [
        click.Option(
            ["--only"],
            metavar="NAME,...",
            help="Measure these alone: kinds of rates (memory, disk, kernels, readers, overheads,"
            " links) or rates by name. The others stay as they are stored.",
        ),
        click.Option(["--show"], is_flag=True, help="Show what is stored; measure nothing."),
        click.Option(["--forget"], is_flag=True, help="Remove what is stored of this machine."),
    ]


def calibrate(ctx: click.Context) -> None:
    """Measure this machine, or show or forget what is stored of it."""
    values = ctx.params
    given = [f"--{name}" for name in ("only", "show", "forget") if values[name]]
    if len(given) > 1:
        raise click.UsageError(f"{given[0]} and {given[1]} exclude each other", ctx)
    with own_command("Interrupted: nothing is stored"), ended_by_term():
        if values["forget"]:
            _forget(values["as_json"])
            return
        if values["show"]:
            _show(values["as_json"], _stored(), {})
        else:
            _calibrate(values["only"] or "", values["as_json"], ctx)


def of_program(returned: Any, as_json: bool) -> str:
    """The symbols of a program by what it returns, as text."""
    import json

    from scalops.cli import program_text
    from scalops.program_calibration import calibrated

    found = calibrated(returned)
    if as_json:
        return json.dumps(program_text.document(found), indent=1)
    return "\n".join(program_text.lines(found))


# Measuring.


def _calibrate(only: str, as_json: bool, ctx: click.Context) -> None:
    """Measure, store and show; figures that can no longer be stored are shown all the same."""
    from scalops import profiles
    from scalops.algebra.errors import ConfigError

    found = _measured(only, ctx)
    hardware, software, rates = profiles.own_hardware(), profiles.own_software(), _rates(found)
    reasons = _reasons(found)
    try:
        profiles.store(hardware, software, rates)
    except ConfigError:
        _show(as_json, _stored().having(software, rates, time()), reasons, is_stored=False)
        raise
    _show(as_json, _stored(), reasons)


def _stored() -> Profile:
    """What is stored of this machine, perhaps nothing."""
    from scalops import profiles

    hardware = profiles.own_hardware()
    return profiles.load(hardware) or profiles.Profile(hardware, {})


def _measured(only: str, ctx: click.Context) -> list[Outcome]:
    """Measure, where the figures can be stored."""
    from scalops import profiles
    from scalops.algebra.errors import ConfigError
    from scalops.engine.calibration import runner

    try:
        probes = runner.chosen([name.strip() for name in only.split(",") if name.strip()])
    except ConfigError as error:
        raise click.UsageError(f"--only: {error}", ctx) from None
    profiles.require_writable(profiles.own_hardware())
    _warn_if_busy(profiles.own_hardware().cores)
    with _progress() as watch:
        return runner.measure(probes, watch=watch)


def _reasons(found: Sequence[Outcome]) -> dict[str, str]:
    """Of rates that could not be measured, why: on standard error, too."""
    from scalops.engine.calibration.measurement import Unmeasured

    reasons = {o.name: o.reason for o in found if isinstance(o, Unmeasured)}
    for reason in dict.fromkeys(reasons.values()):
        names = ", ".join(name for name, own in reasons.items() if own == reason)
        click.echo(f"not measured: {names}: {reason}", err=True)
    return reasons


def _warn_if_busy(cores: int) -> None:
    busy = busy_text(cores)
    if busy:
        click.echo(f"{busy}; calibrate again when it is idle", err=True)


def _rates(found: Sequence[Outcome]) -> list[Rate]:
    from scalops.engine.calibration.measurement import Measured
    from scalops.optimizer.costs.machine import Rate

    return [
        Rate(o.name, o.value, o.unit, "", "measured", o.spread)
        for o in found
        if isinstance(o, Measured)
    ]


@contextmanager
def _progress() -> Iterator[Callable[[int, int, Probe], None]]:
    """What is measured now, on a line of a terminal that disappears; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield lambda number, count, probe: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = BarColumn(24), MofNCompleteColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("")

        def watch(number: int, count: int, probe: Probe) -> None:
            what = f"{probe.kind}: {', '.join(probe.rates)}"
            shown.update(task, completed=number, total=count, description=what)

        yield watch


# Showing.


def _show(as_json: bool, profile: Profile, reasons: dict[str, str], is_stored: bool = True) -> None:
    import json
    import shutil

    from scalops import profiles

    now, hardware = time(), profile.hardware
    machine = profile.machine(now, profiles.own_software())
    path = str(profiles.path_of(hardware)) if is_stored and profiles.folder() else None
    if as_json:
        rates = [
            _as_json(r, profile.rates.get(r.name), reasons.get(r.name))
            for r in machine.rates.values()
        ]
        text = {"format": 1, "machine": vars(hardware), "file": path, "rates": rates}
        click.echo(json.dumps(text, indent=1))
        return
    columns = min(_MOST_COLUMNS, max(_LEAST_COLUMNS, shutil.get_terminal_size().columns))
    click.echo(str(hardware))
    for line in table(machine, columns):
        click.echo(line)
    click.echo("")
    for line in _notes(machine, path):
        click.echo(line)


def _as_json(rate: Rate, stored: Any, reason: str | None) -> dict[str, Any]:
    """One rate; `spread` relative to the value, `at` in seconds since the epoch."""
    return {
        "name": rate.name,
        "value": rate.value,
        "unit": rate.unit,
        "spread": rate.spread,
        "provenance": rate.provenance,
        "stale": rate.stale,
        "at": None if stored is None else stored.at,
        "not_measured": reason,
        "about": rate.about,
    }


def table(machine: Machine, columns: int) -> list[str]:
    """The rates as lines of at most so many columns: name, value, spread, provenance, meaning."""
    import textwrap

    cells = [("rate", "value", "spread", "known by", "what")]
    cells += [
        (rate.name, quantity(rate.value, rate.unit), _spread(rate), _known_by(rate), rate.about)
        for rate in machine.rates.values()
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    room = columns - sum(widths) - 4 * len(_MARGIN)
    lines = []
    for name, value, spread, known, about in cells:
        left = name.ljust(widths[0]), value.rjust(widths[1]), spread.rjust(widths[2])
        first, *more = textwrap.wrap(about, max(room, 20))
        lines.append(_MARGIN.join((*left, known.ljust(widths[3]), first)))
        lines += [" " * (columns - room) + line for line in more]
    return lines


def _spread(rate: Rate) -> str:
    return "" if rate.spread is None else percent(rate.spread)


def percent(spread: float) -> str:
    """A relative spread, as in ±2.5 %."""
    shown = 100 * spread
    return f"±{shown:.1f} %" if shown < 9.95 else f"±{shown:.0f} %"


def _known_by(rate: Rate) -> str:
    return f"{rate.provenance}, stale" if rate.stale else rate.provenance


def _notes(machine: Machine, path: str | None) -> Iterator[str]:
    """Where the figures come from, and what a reader may do about them."""
    from datetime import UTC, datetime

    rates = machine.rates.values()
    if machine.measured_at is None:
        yield "Nothing is stored of this machine: scalops calibrate measures it."
        return
    day = datetime.fromtimestamp(machine.measured_at, UTC).strftime("%Y-%m-%d")
    yield "Not stored." if path is None else f"Stored in {path}, since {day}."
    yield "spread: half of the distance between the quartiles, relative to the median."
    if any(r.stale for r in rates):
        yield "stale: older than 30 days, or of other versions of libraries; calibrate again."
    if any(r.provenance == "assumed" for r in rates):
        yield "assumed: not measured here."


def quantity(value: float, unit: str) -> str:
    """A value in a unit that is easy to read.

    >>> quantity(9.87654e9, "bytes/s"), quantity(0.000123, "s"), quantity(8.5e6, "records/s")
    ('9.88 GB/s', '123 µs', '8.50 Mrec/s')
    """
    if unit == "s":
        size, name = next((t for t in _TIMES if value >= t[0] * 0.9995), _TIMES[-1])
        return f"{_three(value / size)} {name}"
    size, prefix = next((s for s in _SCALES if value >= s[0] * 0.9995), (1.0, ""))
    return f"{_three(value / size)} {prefix}{_SHORT.get(unit, ' ' + unit)}"


def _three(value: float) -> str:
    """Three digits."""
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f}"


def _forget(as_json: bool) -> None:
    import json

    from scalops import profiles

    path = profiles.forget(profiles.own_hardware())
    if as_json:
        click.echo(json.dumps({"removed": None if path is None else str(path)}))
    else:
        click.echo("nothing was stored" if path is None else f"removed {path}")
