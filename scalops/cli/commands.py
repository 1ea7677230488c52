"""The commands that may have a program: `scalops run`, `explain`, `calibrate` and `whatif`.

A command line is parsed twice: first up to the program, to find it, then as a whole, with the
program's parameters as options.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from scalops.cli import calibrate_command, cluster_commands, whatif_command
from scalops.cli.convert_command import convert
from scalops.cli.failures import ended_by_term, user_code
from scalops.cli.loading import choose_program, execute_file, split_program
from scalops.cli.options import (
    ProgramOption,
    call_program,
    did_you_mean,
    no_such_option,
    normalize,
    program_options,
)

if TYPE_CHECKING:
    from scalops.algebra.errors import ScalopsError
    from scalops.session import Session

_PROGRAM_HELP = """
    PROGRAM is a Python file with a function decorated @so.program, or FILE:NAME where it holds
    several. Without a name it is main, else the only one defined in the file. Its parameters
    are options, given after it: scalops {command} PROGRAM --help lists them with types and
    defaults. A parameter that bears the name of an option of scalops is offered as
    --param-NAME. What the program prints goes to standard error.
"""
_EXITS = (
    "Exit codes: 0 done, 1 the program failed, 2 wrong usage, 130 interrupted,"
    " 143 ended by SIGTERM."
)


def _run_options() -> list[click.Option]:
    return [
        click.Option(
            ["--json", "as_json"],
            is_flag=True,
            help="Print one JSON document: arrays as lists, tables as lists of records,"
            ' NaN and infinities as "NaN", "Infinity", "-Infinity".',
        ),
        click.Option(
            ["--progress/--no-progress", "progress"],
            default=None,
            help="Show the iterations on standard error while running.  [default: on a terminal]",
        ),
        click.Option(
            ["--log-file"],
            type=click.Path(dir_okay=False),
            help="Append what happens to this file, each event as a JSON object on a line.",
        ),
        *_place_options(),
    ]


def _place_options() -> list[click.Option]:
    """Where plans run."""
    return [
        click.Option(
            ["--workers"],
            metavar="N|auto",
            help="Run on so many worker processes of this machine; auto: as many as the cost model"
            " finds best.  [default: in this process]",
        ),
        click.Option(
            ["--connect"],
            metavar="URI",
            help="Run on the workers of a cluster, as in tcp://host:5555.",
        ),
        click.Option(
            ["--key"],
            type=click.Path(),
            help="The file of the key that the cluster asks for.",
        ),
    ]


def _explain_options() -> list[click.Option]:
    stages = ("traced", "logical", "optimized", "physical", "all")
    return [
        click.Option(
            ["--stage"],
            type=click.Choice(stages),
            help="Which plan to show.  [default: optimized; with --analyze physical]",
        ),
        click.Option(
            ["--format", "form"],
            type=click.Choice(("text", "json", "dot", "mermaid", "html")),
            default="text",
            show_default=True,
            help="How to print it; html is one page, for a file.",
        ),
        click.Option(["--trace"], is_flag=True, help="Also list the rules that fired."),
        click.Option(
            ["--costs/--no-costs"],
            default=True,
            help="What the parts of the physical plan are estimated to take.  [default: costs]",
        ),
        click.Option(
            ["--analyze"],
            is_flag=True,
            help="Run the program, and show what was estimated beside what happened.",
        ),
        *_place_options(),
    ]


def _calibrate_options() -> list[click.Option]:
    return [
        click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON document."),
        *_place_options(),
    ]


def _reserved_names() -> frozenset[str]:
    """The names of the options of both commands: a program has the same options in each."""
    return _names_of([*_run_options(), *_explain_options()]) | {"help", "no-help"}


def _names_of(options: Iterable[click.Option]) -> frozenset[str]:
    names = {name for option in options for name in (*option.opts, *option.secondary_opts)}
    return frozenset(normalize(name) for name in names)


class _Alone(NamedTuple):
    """A command without a program: options that it has then only, and what it does."""

    options: Callable[[], list[click.Option]]
    perform: Callable[[click.Context], None]


class _FindProgram(click.Command):
    """A command as far as it is known before its program: options, PROGRAM, the rest."""

    def __init__(
        self,
        name: str,
        options: Callable[[], list[click.Option]],
        perform: _Perform,
        summary: str,
        alone: _Alone | None = None,
    ) -> None:
        """`alone` is what the command does without a program, if it does anything then."""
        super().__init__(
            name,
            callback=self._find,
            params=[
                click.Argument(["program"], required=alone is None),
                click.Argument(
                    ["rest"], nargs=-1, type=click.UNPROCESSED, metavar="[PROGRAM OPTIONS]..."
                ),
                *options(),
                *(alone.options() if alone else ()),
            ],
            help=summary + "\n" + _PROGRAM_HELP.format(command=name),
            short_help=summary,
            epilog=_EXITS,
            context_settings={"allow_interspersed_args": False},
        )
        self._options, self._perform, self._alone = options, perform, alone

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            near = did_you_mean(error.option_name, self.params)
            message = f"{error.message}{near} The options of a program come after it."
            raise click.NoSuchOption(error.option_name, message, ctx=error.ctx) from None

    def _find(self, program: str | None, rest: tuple[str, ...], **own: Any) -> None:
        ctx = click.get_current_context()
        if self._alone is not None:
            if program is None:
                self._alone.perform(ctx)
                return
            for option in self._alone.options():
                if _is_given(ctx, str(option.name)):
                    raise click.UsageError(f"{option.opts[0]} goes without a program", ctx)
        assert program is not None
        path, name = split_program(program)
        with user_code():
            module = execute_file(path)
        chosen = choose_program(module, path, name)
        command = _WithProgram(chosen, self._options())
        given = {n: v for n, v in own.items() if _is_given(ctx, n)}
        with command.make_context(
            f"{ctx.info_name} {program}", list(rest), parent=ctx.parent, default_map=given
        ) as whole:
            self._perform(chosen, whole)


class _WithProgram(click.Command):
    """The whole command, its program's parameters included."""

    def __init__(self, program: Any, own: list[click.Option]) -> None:
        reserved = _reserved_names() | _names_of(own)
        options = program_options(program.function, reserved)
        super().__init__(None, params=[*options, *own], help=program.__doc__, epilog=_EXITS)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            options = [p for p in self.params if isinstance(p, ProgramOption)]
            own = [p for p in self.params if not isinstance(p, ProgramOption)]
            message = no_such_option(error.option_name, options, own)
            raise click.NoSuchOption(error.option_name, message, ctx=ctx) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        titles = {True: "Options of the program", False: "Options of scalops"}
        for is_program, title in titles.items():
            found = [
                p.get_help_record(ctx)
                for p in self.get_params(ctx)
                if isinstance(p, ProgramOption) is is_program
            ]
            rows = [row for row in found if row is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


_Perform = Callable[[Any, click.Context], None]


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _place(ctx: click.Context) -> dict[str, Any]:
    """Where the command line says that plans run, read; a usage error where it makes no sense.

    What variables and files say is not its fault: of that the session will complain.
    """
    from scalops.algebra.errors import ConfigError
    from scalops.configuration import COMMAND_LINE, configure, written
    from scalops.options import read_option

    given = {n: ctx.params[n] for n in ("workers", "connect", "key") if ctx.params[n] is not None}
    try:
        place = {n: read_option(n, v, written(COMMAND_LINE, n)) for n, v in given.items()}
    except ConfigError as error:
        raise _usage_error(error, ctx) from None
    try:
        configure(place, COMMAND_LINE)
    except ConfigError as error:
        if _is_sound_without():
            raise _usage_error(error, ctx) from None
    return place


def _usage_error(error: ScalopsError, ctx: click.Context) -> click.UsageError:
    error.location = None  # no line of the program
    return click.UsageError(str(error), ctx)


def _is_sound_without() -> bool:
    """Whether variables and files alone make sense."""
    from scalops.algebra.errors import ConfigError
    from scalops.configuration import configure

    try:
        configure({})
    except ConfigError:
        return False
    return True


def _session(place: dict[str, Any]) -> Session:
    """The session that the command line asks for; of what it does not say, as everywhere."""
    from scalops.configuration import COMMAND_LINE
    from scalops.session import Session

    return Session(place, COMMAND_LINE)


def _progress_line(ctx: click.Context) -> AbstractContextManager[Any]:
    """The line of progress; none where it is not wanted."""
    is_terminal = sys.stderr.isatty()
    wanted = ctx.params["progress"]
    if not (is_terminal if wanted is None else wanted):
        return nullcontext()
    from scalops.cli.progress import ProgressLine

    return ProgressLine(sys.stderr, is_terminal=is_terminal)


def _event_file(ctx: click.Context) -> AbstractContextManager[Any]:
    """The log file; none where it was not asked for."""
    if ctx.params["log_file"] is None:
        return nullcontext()
    from scalops.cli.event_file import EventFile

    return EventFile(ctx.params["log_file"])


def _run(program: Any, ctx: click.Context) -> None:
    from scalops.cli.running import check_returned, run_returned

    place = _place(ctx)
    with (
        _event_file(ctx) as file,
        user_code(),
        ended_by_term(),
        _progress_line(ctx) as line,
        _session(place) as session,
    ):
        logs = [log for log in (line, file) if log is not None]
        if logs:
            from scalops.engine.events import Several

            session.events = Several(logs)
        returned = call_program(program, ctx)
        check_returned(program.function, returned)
        result = run_returned(returned)
        if ctx.params["as_json"]:
            from scalops.cli.results_json import to_json as form
        else:
            from scalops.cli.results_text import to_text as form
        text = form(result)
    click.echo(text)


def _explain(program: Any, ctx: click.Context) -> None:
    from scalops.cli.running import check_returned

    values, place = ctx.params, _place(ctx)
    analyze = values["analyze"]
    term = ended_by_term() if analyze else nullcontext()
    with user_code(), term, _session(place):
        returned = call_program(program, ctx)
        check_returned(program.function, returned)
        # Not `scalops.explain`: an attribute of the package may hide a module of its name.
        explain = importlib.import_module("scalops.explain").explain
        text = explain(
            returned,
            stage=values["stage"],
            format=values["form"],
            trace=values["trace"],
            analyze=analyze,
            costs=values["costs"],
        )
    click.echo(text.rstrip("\n"))


def _calibrate(program: Any, ctx: click.Context) -> None:
    from scalops.cli.running import check_returned

    place = _place(ctx)
    with user_code(), ended_by_term(), _session(place):
        returned = call_program(program, ctx)
        check_returned(program.function, returned)
        text = calibrate_command.of_program(returned, ctx.params["as_json"])
    click.echo(text)


def _whatif(program: Any, ctx: click.Context) -> None:
    from scalops.cli.running import check_returned

    asked, place = whatif_command.read(ctx), _place(ctx)
    with user_code(), ended_by_term(), _session(place):
        returned = call_program(program, ctx)
        check_returned(program.function, returned)
        found = whatif_command.of_program(returned, asked, ctx)
    whatif_command.show(found, ctx.params["form"])


@click.group(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": normalize,
    },
    epilog=_EXITS,
)
@click.version_option(package_name="scalops", message="scalops %(version)s")
def cli() -> None:
    """Run programs whose loops over tables are optimized as one plan, or show that plan."""


cli.add_command(_FindProgram("run", _run_options, _run, "Run a program and print its result."))
cli.add_command(
    _FindProgram("explain", _explain_options, _explain, "Show a program's plan; nothing is run.")
)
cli.add_command(
    _FindProgram(
        "calibrate",
        _calibrate_options,
        _calibrate,
        "Measure this machine, or a program on it.",
        _Alone(calibrate_command.options, calibrate_command.calibrate),
    )
)
cli.add_command(
    _FindProgram(
        "whatif",
        lambda: [*whatif_command.options(), *_place_options()],
        _whatif,
        "Say how many machines are best, and how sure that is.",
        _Alone(list, whatif_command.alone),
    )
)
for _command in (convert, *cluster_commands.COMMANDS):
    cli.add_command(_command)
