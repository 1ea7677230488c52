"""A program's parameters as options."""

from pathlib import Path

import pytest

from tests.cli.conftest import Invoke, Write


def echo(signature: str, before: str = "") -> str:
    """A program that prints its arguments and ends."""
    return f"""
from __future__ import annotations
import sys
from pathlib import Path
from typing import Any, Optional, Union
import scalops as so
{before}

@so.program
def main({signature}):
    '''Train the model.

    On e-mails.
    '''
    print(*(f"{{n}}={{v!r}}" for n, v in locals().items()), file=sys.stderr)
    raise SystemExit(0)
"""


@pytest.mark.parametrize(
    ("signature", "given", "printed"),
    [
        ("x: int = 3", [], "x=3"),
        ("x: int = 3", ["--x", "4"], "x=4"),
        ("x: float = 3", ["--x", "4"], "x=4.0"),
        ("x: float = 3", [], "x=3"),
        ("x: float = 0.5", ["--x", "-1e-3"], "x=-0.001"),
        ("x: float = 0.5", ["--x=inf"], "x=inf"),
        ("x: str = 'a'", ["--x", "b c"], "x='b c'"),
        ("x: str", ["--x", "b"], "x='b'"),
        ("x: bool = False", ["--x"], "x=True"),
        ("x: bool = True", ["--no-x"], "x=False"),
        ("x: bool = True", [], "x=True"),
        ("x: bool", ["--no-x"], "x=False"),
        ("x: Path = Path('p')", ["--x", "q"], f"x={Path('q')!r}"),
        ("x: Path = 'p'", [], "x='p'"),
        ("x: Optional[int] = None", [], "x=None"),
        ("x: Optional[int] = None", ["--x", "1"], "x=1"),
        ("x: float | None = None", ["--x", "1"], "x=1.0"),
        ("x: bool | None = None", [], "x=None"),
        ("x: bool | None = None", ["--no-x"], "x=False"),
        ("x: int = None", ["--x", "1"], "x=1"),
        ("x: Any = 2", ["--x", "1"], "x=1"),
        ("x=True", ["--no-x"], "x=False"),
        ("x=2", ["--x", "1"], "x=1"),
        ("x=Path('p')", ["--x", "1"], f"x={Path('1')!r}"),
        ("x: int = 1, /", ["--x", "2"], "x=2"),
        ("x: int = 1, /, y: int = 2", ["--y", "3"], "x=1 y=3"),
        ("*, x: int = 1", ["--x", "2"], "x=2"),
        ("learning_rate=0.1", ["--learning-rate", "1"], "learning_rate=1.0"),
        ("learning_rate=0.1", ["--learning_rate", "1"], "learning_rate=1.0"),
        ("lambda_=0.1", ["--lambda", "1"], "lambda_=1.0"),
        ("lambda_=0.1", ["--lambda_", "1"], "lambda_=1.0"),
        ("k=1, K=2", ["--K", "3"], "k=1 K=3"),
        ("x=1, x_=2", ["--param-x", "3"], "x=1 x_=3"),
        # Options of scalops keep their names, in both commands alike.
        ("json=1", ["--param-json", "2"], "json=2"),
        ("json: bool = False", ["--json"], "json=False"),
        ("stage='a', help=1", ["--param-stage", "b", "--param-help", "2"], "stage='b' help=2"),
        ("workers=1", ["--param-workers", "2"], "workers=2"),
        # The off switch of a flag gives way to a parameter.
        ("cache=False, no_cache=1", ["--no-cache", "2", "--param-cache"], "cache=True no_cache=2"),
    ],
)
def test_options_reach_the_program(
    write: Write, invoke: Invoke, signature: str, given: list[str], printed: str
) -> None:
    result = invoke("run", write(echo(signature)), *given)
    assert (result.stderr, result.exit_code) == (printed + "\n", 0)


def test_variadic_parameters_are_no_options(write: Write, invoke: Invoke) -> None:
    result = invoke("run", write(echo("x: int = 1, *more: list[int], **others: set[int]")))
    assert result.stderr == "x=1 more=() others={}\n"


@pytest.mark.parametrize(
    ("signature", "given", "message"),
    [
        ("x: int = 1", ["--x", "a"], "Invalid value for '--x': 'a' is not a valid integer"),
        ("x: float", ["--x", "a"], "Invalid value for '--x': 'a' is not a valid float"),
        ("x: float", [], "Missing option '--x'"),
        ("x: int = 1", ["--y", "a"], "No such option '--y'. The program's options are --x."),
        ("eps: int = 1", ["--ep", "a"], "No such option '--ep'. Did you mean '--eps'?"),
        ("", ["--lr", "1"], "No such option '--lr'. The program has no options."),
        ("n: int = 1", ["--worker", "2"], "Did you mean '--workers', an option of scalops? The"),
        ("", ["--log_fil", "a"], "Did you mean '--log-file', an option of scalops? The program"),
        ("workes: int = 1", ["--workrs", "2"], "Did you mean '--workers', an option of scalops?"),
        ("x: int = 1", ["file"], "unexpected extra argument"),
    ],
)
def test_wrong_options_are_wrong_usage(
    write: Write, invoke: Invoke, signature: str, given: list[str], message: str
) -> None:
    result = invoke("run", write(echo(signature)), *given)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr
    assert message in result.stderr


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("x: list[int] = ()", "'x' of main() is annotated list[int], which is no option's type"),
        ("x: int | str = 1", "is annotated int | str, which is no option's type"),
        ("x: Union[int, str] = 1", "which is no option's type"),
        ("x: Missing = 1", "annotations of main() cannot be read: NameError: name 'Missing'"),
        ("x", "'x' of main() has no annotation and no default"),
        ("x=None", "has no annotation and the default None"),
        ("x=(1, 2)", "has no annotation and the default (1, 2)"),
    ],
)
def test_types_that_no_option_has_are_refused(
    write: Write, invoke: Invoke, signature: str, message: str
) -> None:
    result = invoke("run", write(echo(signature)))
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_help_lists_the_programs_parameters(write: Write, invoke: Invoke) -> None:
    signature = "n: int, eps: float = 1e-4, opaque: bool = False, out: Path | None = None, json=''"
    result = invoke("run", write(echo(signature)), "--help")
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert " Train the model. On e-mails. Options of the program: " in " ".join(
        result.stdout.split()
    )
    for line in (
        "Options of the program:",
        "--n INTEGER [required]",
        "--eps FLOAT [default: 0.0001]",
        "--opaque / --no-opaque [default: no-opaque]",
        "--out PATH [default: none]",
        '--param-json TEXT The program\'s parameter json. [default: ""]',
        "Options of scalops:",
    ):
        assert line in lines
    assert "program.py [OPTIONS]" in " ".join(lines[:2])
    assert not result.stderr


def test_explain_offers_the_same_options(write: Write, invoke: Invoke) -> None:
    result = invoke("explain", write(echo("json=1, trace=2")), "--help")
    assert "--param-json" in result.stdout
    assert "--param-trace" in result.stdout
    assert "--stage" in result.stdout


def test_general_help_states_the_rule_of_clashing_names(invoke: Invoke) -> None:
    text = " ".join(invoke("run", "--help").stdout.split())
    assert "name of an option of scalops is offered as --param-NAME" in text


def test_program_option_before_the_program_is_explained(write: Write, invoke: Invoke) -> None:
    result = invoke("run", "--eps", "1", write(echo("eps=0.1")))
    assert result.exit_code == 2
    assert "No such option '--eps'. The options of a program come after it." in result.stderr
    result = invoke("run", "--worker", "1", write(echo("eps=0.1")))
    assert "Did you mean '--workers', an option of scalops? The options" in result.stderr


def test_decorated_function_keeps_its_parameters(write: Write, invoke: Invoke) -> None:
    before = """
import functools
def timed(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)
    return inner
"""
    path = write(echo("x: int = 1", before).replace("@so.program", "@so.program\n@timed"))
    assert invoke("run", path, "--x", "2").stderr == "x=2\n"
