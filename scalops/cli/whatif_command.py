"""The command `scalops whatif`: how many machines, by given symbols or by those of a program.

All that `scalops --help` does not need is imported when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from scalops.whatif import Asked, WhatIf

_FAILED = 1
# Parameter of `so.whatif`, the option, what its value is called, what it is.
_SYMBOLS = (
    ("records", "--records", "R", "Records that an iteration reads, as in 1e8 or 100M."),
    ("map", "--map", "P", "Seconds of a machine to map a record, as in 1e-6 or 1us."),
    ("load", "--load", "D", "Seconds to load a record that is not cached.  [default: 0]"),
    ("cache", "--cache", "M", "Records that one machine's cache holds.  [default: all]"),
    ("aggregate", "--aggregate", "A", "Seconds to pass on and add a partial result.  [default: 0]"),
    ("broadcast", "--broadcast", "B", "Seconds to pass on the environment once.  [default: 0]"),
    ("level", "--level-overhead", "L", "Seconds of each level of the tree, beside.  [default: 0]"),
    ("iterations", "--iterations", "K", "Iterations.  [default: 1; the program's]"),
    ("price", "--price", "P/h", "Of a machine for an hour, as in 0.50/h."),
)
_ASKED = (
    ("machines", "--machines", "RANGE", "Machine counts: 1..500, or 1,2,4,8.  [default: 1..500]"),
    ("deadline", "--deadline", "T", "For all iterations, as in 90s or 2h: the cheapest within it."),
    ("budget", "--budget", "X", "Of money, or machine-seconds: the fastest within it."),
    ("catalog", "--catalog", "FILE", "A TOML file of machine types, of which the best is chosen."),
    ("sweep", "--sweep", "NAME=A..B", "Also by one of them: cache=1e6..1e8 or map=1us,2us."),
    ("loop", "--loop", "NAME", "Which loop of the program.  [default: the one that takes longest]"),
)  # fmt: skip


def options() -> list[click.Option]:
    """All of the command's own."""
    return [
        *_texts(_SYMBOLS),
        *_texts(_ASKED),
        click.Option(
            ["--objective"],
            type=click.Choice(("time", "cost")),
            default="time",
            show_default=True,
            help="What to make least.",
        ),
        click.Option(
            ["--format", "form"],
            type=click.Choice(("text", "json", "html")),
            default="text",
            show_default=True,
            help="How to print it; html is one page, for a file.",
        ),
    ]


def _texts(rows: tuple[tuple[str, str, str, str], ...]) -> list[click.Option]:
    return [click.Option([option, name], metavar=m, help=h) for name, option, m, h in rows]


def alone(ctx: click.Context) -> None:
    """Answer by the symbols that are given."""
    from scalops.algebra.errors import ConfigError
    from scalops.whatif import found_for

    values = ctx.params
    for name in ("workers", "connect", "key"):
        if values.get(name) is not None:
            raise click.UsageError(
                f"--{name} goes with a program: it says where it is measured", ctx
            )
    asked = read(ctx)
    try:
        found = found_for((), asked, values["loop"])
    except ConfigError as error:
        raise _usage(error, ctx) from None
    show(found, values["form"])


def of_program(returned: Any, asked: Asked, ctx: click.Context) -> WhatIf:
    """Answer by the symbols of what a program returns, measured here."""
    from scalops.whatif import found_for

    return found_for((returned,), asked, ctx.params["loop"])


def read(ctx: click.Context) -> Asked:
    """What the options say; a usage error where that makes no sense."""
    from scalops.algebra.errors import ConfigError
    from scalops.whatif import MACHINES, asked_for

    values = ctx.params
    given = {name: values[name] for name, *_ in _SYMBOLS}
    machines: Any = MACHINES if values["machines"] is None else values["machines"]
    try:
        return asked_for(
            given,
            machines,
            values["objective"],
            values["deadline"],
            values["budget"],
            values["catalog"],
            values["sweep"],
        )
    except ConfigError as error:
        raise _usage(error, ctx) from None


def _usage(error: Exception, ctx: click.Context) -> click.UsageError:
    error.location = None  # type: ignore[attr-defined]  # no line of a program
    return click.UsageError(str(error), ctx)


def show(found: WhatIf, form: str) -> None:
    """Print the answer; where nothing is within deadline and budget the command has failed."""
    made = {"text": found.__str__, "json": found.to_json, "html": found.to_html}[form]()
    click.echo(made.rstrip("\n"))
    answer = found.answer
    if answer.choice is None:
        hint = f"; {answer.hint}" if answer.hint else ""
        click.secho(f"PlanError: {answer.reason}{hint}", fg="red", err=True)
        raise SystemExit(_FAILED)
