"""`so.whatif`: how many machines, of which type, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

from scalops.algebra.deep_json import deep_json
from scalops.algebra.errors import ConfigError
from scalops.optimizer.costs import closed_form
from scalops.optimizer.costs.catalog import Catalog, MachineType, read_catalog
from scalops.optimizer.costs.flips import Flip, flips
from scalops.optimizer.costs.integer_plan import Objective, Point
from scalops.optimizer.costs.symbols import Symbols
from scalops.optimizer.costs.whatif import (
    SYMBOLS,
    Answer,
    Question,
    SweptPoint,
    answer,
    changed,
    check_bounds,
    without_trifles,
)
from scalops.optimizer.costs.whatif import sweep as sweep_over
from scalops.whatif_arguments import LETTERS, read_machines, read_number, read_sweep

if TYPE_CHECKING:
    from scalops.program_calibration import CalibratedLoop

MACHINES = range(1, 501)
Known = Literal["given", "not given", "exact", "measured", "estimated", "assumed"]
Number = float | str
ABOUT = {
    "records": ("records", "records that an iteration reads"),
    "map": ("s", "to map a record, all of a machine"),
    "load": ("s", "to load a record that is not cached"),
    "cache": ("records", "that one machine's cache holds"),
    "aggregate": ("s", "to pass on and add a partial result"),
    "broadcast": ("s", "to pass the environment on once"),
    "level": ("s", "of each level of the tree, beside"),
    "iterations": ("", "iterations"),
    "price": ("/h", "of a machine for an hour"),
}


@dataclass(frozen=True)
class Constant:
    """A symbol of the cost model, and how it is known.

    `spread`: half of the distance between the quartiles of what was measured, by the median; None
    where nothing was. `value` None: a price that nobody knows.
    """

    name: str
    letter: str
    value: float | None
    unit: str
    about: str
    provenance: Known
    spread: float | None = None


@dataclass(frozen=True)
class Program:
    """Short runs that the symbols were measured by.

    `table` is the one that was sampled, of `records`; a machine is `threads` threads of this one.
    Where they are not counted (`is_counted`), `records` are estimated.
    `busy` says so where other processes kept it busy, `notes` what to know of the symbols.
    """

    loop: str
    table: str
    records: float
    runs: int
    seconds: float
    threads: int
    other_loops: tuple[str, ...] = ()
    busy: str = ""
    notes: tuple[str, ...] = ()
    is_counted: bool = True


@dataclass(frozen=True, repr=False)
class WhatIf:
    """What `so.whatif` found. Its text is what `scalops whatif` prints.

    `answer` has the points of all machine counts, `constants` the symbols and how each is known,
    `flips` how far each may move before the decision changes, `swept` the values of one constant
    and what is best with them.
    """

    question: Question
    answer: Answer
    constants: tuple[Constant, ...]
    swept: tuple[str, tuple[SweptPoint, ...]] | None = None
    program: Program | None = None

    @property
    def choice(self) -> Point | None:
        """The best machine count within deadline and budget; None where none is."""
        return self.answer.choice

    @property
    def fastest(self) -> Point:
        """The machine count of the least seconds."""
        return self.answer.fastest

    @property
    def cheapest(self) -> Point:
        """The machine count of the least money, or of the least machine-seconds."""
        return self.answer.cheapest

    @cached_property
    def flips(self) -> tuple[Flip, ...]:
        """By constant, the nearest values with which the choice is given up."""
        return flips(self.answer)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data: the document of docs/whatif.schema.json."""
        from scalops.whatif_document import document

        return document(self)

    def to_json(self) -> str:
        """The same as JSON."""
        return deep_json(self.to_dict())

    def to_html(self) -> str:
        """One page with sliders for all symbols; it needs no network."""
        from scalops.reports.whatif_page import whatif_page

        return whatif_page(self.to_dict())

    def __repr__(self) -> str:
        from scalops.cli.whatif_text import brief

        return f"<WhatIf: {brief(self)}>"

    def __str__(self) -> str:
        from scalops.cli.whatif_text import text

        return text(self)


def whatif(
    *things: Any,
    records: Number | None = None,
    map: Number | None = None,
    load: Number | None = None,
    cache: Number | None = None,
    aggregate: Number | None = None,
    broadcast: Number | None = None,
    level: Number | None = None,
    iterations: Number | None = None,
    price: Number | None = None,
    machines: Iterable[int] | int | str = MACHINES,
    objective: Objective = "time",
    deadline: Number | None = None,
    budget: Number | None = None,
    catalog: Catalog | str | PathLike[str] | None = None,
    sweep: str | Mapping[str, Iterable[Number]] | None = None,
    loop: str | int | None = None,
) -> WhatIf:
    """How many machines are best, what each number takes, and how sure that is.

    Without `things` from the symbols given: `records` (R) that an iteration reads, and the seconds
    of one machine to `map` a record (P), at least; `load` (D) one that is not cached, of which
    `cache` (M) are; to pass on and `aggregate` a partial result (A), to `broadcast` the environment
    one step (B), of each `level` of the tree beside (L); K `iterations`. What is left out is 0, the
    cache holds all, K is 1. Numbers may be text with a unit: "100M", "10us".

    With tables, values or loops the symbols are measured, by short runs of the `loop` (its name, or
    its number from 0; else the one that takes longest), and those given take their place; `records`
    says how large the data would be.

    `machines`: counts to choose from, as ints or "1..500". `objective`: "time" or "cost", seconds
    of all iterations or what they cost. `deadline`: seconds, or "2h"; alone, the cheapest within it
    is chosen. `budget`: money, or machine-seconds without a price; alone, the fastest within it is
    chosen. `price` of a machine for an hour. `catalog`: types of machines, or a file of them.
    `sweep`: one constant and its values, "cache=1e6..1e8", for each of which the best is found.

    Times may be 0 or 1e-15 to 1e12 s, records and cache up to 1e18, iterations up to 1e12.

    Raises: ConfigError for what makes no sense, and for a program that cannot be measured.
    """
    given = {
        "records": records, "map": map, "load": load, "cache": cache, "aggregate": aggregate,
        "broadcast": broadcast, "level": level, "iterations": iterations, "price": price,
    }  # fmt: skip
    asked = asked_for(given, machines, objective, deadline, budget, catalog, sweep)
    return found_for(things, asked, loop)


@dataclass(frozen=True)
class Asked:
    """A question as far as it is given: its symbols are those of `given`, others are to follow."""

    question: Question
    given: Mapping[str, float]
    swept: tuple[str, tuple[float, ...]] | None


def asked_for(
    given: Mapping[str, Number | None],
    machines: Iterable[int] | int | str,
    objective: Objective,
    deadline: Number | None,
    budget: Number | None,
    catalog: Catalog | str | PathLike[str] | None,
    sweep: str | Mapping[str, Iterable[Number]] | None,
) -> Asked:
    """Read what is given. Raises ConfigError before anything is measured."""
    read = {name: read_number(name, v) for name, v in given.items() if v is not None}
    for name, value in read.items():
        check_bounds(name, value)
    swept = None if sweep is None else read_sweep(sweep)
    types = catalog if catalog is None or isinstance(catalog, Catalog) else read_catalog(catalog)
    question = Question(
        Symbols(**({"records": 1.0, "map": 0.0} | read)),
        read_machines(machines),
        objective,
        None if deadline is None else read_number("deadline", deadline),
        None if budget is None else read_number("budget", budget),
        types,
    )
    if swept is not None:
        for value in swept[1]:
            check_bounds(swept[0], value)
            changed(question, swept[0], value)
    return Asked(question, read, swept)


def found_for(things: tuple[Any, ...], asked: Asked, loop: str | int | None = None) -> WhatIf:
    """The answer, of given symbols or of a program's."""
    if things:
        return _of_program(things, asked, loop)
    if loop is not None:
        raise ConfigError(f"loop is {loop!r}, and there is no program", hint="leave it out")
    missing = [name for name in ("records", "map") if name not in asked.given]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not given; expected"
            " at least records and map, the seconds to map one of them",
            hint="or a program, whose constants are measured",
        )
    known: dict[str, Known] = {n: "given" if n in asked.given else "not given" for n in SYMBOLS}
    return _found(asked.question, known, {}, asked.swept)


def _found(
    question: Question,
    known: Mapping[str, Known],
    spreads: Mapping[str, float],
    swept: tuple[str, tuple[float, ...]] | None,
    program: Program | None = None,
) -> WhatIf:
    constants = tuple(
        Constant(
            name,
            LETTERS.get(name, "price"),
            getattr(question.symbols, name),
            *ABOUT[name],
            known[name],
            spreads.get(name) if known[name] in ("measured", "estimated") else None,
        )
        for name in SYMBOLS
    )
    made = None if swept is None else (swept[0], sweep_over(question, *swept))
    return WhatIf(question, answer(question), constants, made, program)


def _of_program(things: tuple[Any, ...], asked: Asked, loop: str | int | None) -> WhatIf:
    # The engine: symbols that are given need none of it.
    from scalops.optimizer.costs.program_symbols import program_symbols
    from scalops.program_calibration import calibrated, notes

    wanted = things[0] if len(things) == 1 else things
    measured = calibrated(wanted, "whatif")
    rates, own, given = measured.rates, measured.setting, asked.given
    chosen = _chosen_loop(measured.loops, loop)
    at = program_symbols(
        rates, measured.work, measured.machine, own, chosen.index, given.get("records")
    )
    known: dict[str, Known] = {**chosen.known, "price": "not given"}
    known |= {n: "estimated" for n in at.unsure if known[n] == "measured"}
    known |= dict.fromkeys(given, "given")
    spreads = {n: s for n, s in at.spreads.items() if n not in given}
    reference = MachineType(
        "this machine",
        own.threads,
        own.memory,
        measured.machine["disk_read"],
        measured.machine["link"],
    )
    question = replace(
        asked.question,
        symbols=replace(without_trifles(at.symbols), **given),
        reference=reference if asked.question.catalog else None,
    )
    others = tuple(_name(one) for one in measured.loops if one is not chosen)
    program = Program(
        _name(chosen), rates.table, rates.records, rates.runs, rates.seconds, own.threads, others,
        measured.busy, notes({**chosen.found.notes, **at.notes}, known, given), rates.is_counted,
    )  # fmt: skip
    return _found(question, known, spreads, asked.swept, program)


def _name(loop: CalibratedLoop) -> str:
    return loop.name or f"loop {loop.index + 1}"


def _chosen_loop(loops: Sequence[CalibratedLoop], wanted: str | int | None) -> CalibratedLoop:
    """The loop of a name or a number; else the one that takes longest on one machine."""
    if wanted is None:
        return max(loops, key=_seconds_alone)
    for number, one in enumerate(loops):
        if wanted in (one.name, _name(one)) or str(wanted) == str(number):
            return one
    raise ConfigError(f"loop is {wanted!r}; expected one of {[_name(one) for one in loops]}")


def _seconds_alone(loop: CalibratedLoop) -> float:
    symbols = loop.found.symbols
    return symbols.iterations * closed_form.seconds(symbols, 1)
