"""A failing program: exit code 1, the error's text, the user's own lines, nothing of ours."""

import importlib
from pathlib import Path
from typing import Any

import pytest

import scalops as so
from scalops.algebra.errors import Location
from tests.cli.conftest import Invoke, Write

PROGRAM = "import scalops as so\n\n@so.program\ndef main():\n    "


def failing_run(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def collect(thing: Any, listen: Any = None) -> Any:
        raise error

    monkeypatch.setattr(importlib.import_module("scalops.session"), "collect", collect)


def test_error_of_ours_is_one_line(write: Write, invoke: Invoke) -> None:
    path = write(PROGRAM + "return so.table({'x': [1.0]}).select('y')\n")
    result = invoke("run", path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("SchemaError: ")
    assert "(program.py:5)" in result.stderr
    assert "Traceback" not in result.stderr


def test_error_of_ours_while_importing_is_one_line(write: Write, invoke: Invoke) -> None:
    result = invoke("explain", write("import scalops as so\nso.table({'x': [1.0]}).select('y')\n"))
    assert result.exit_code == 1
    assert "(program.py:2)" in result.stderr
    assert "Traceback" not in result.stderr


def test_users_exception_shows_the_users_lines_only(write: Write, invoke: Invoke) -> None:
    path = write(PROGRAM + "return so.table({'x': [1.0]}).count() + {}['key']\n")
    result = invoke("run", path)
    assert result.exit_code == 1
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert f'File "{path}", line 5, in main' in result.stderr
    assert "KeyError: 'key'" in result.stderr
    assert "/scalops/" not in result.stderr


def test_frames_of_libraries_below_the_users_line_stay(write: Write, invoke: Invoke) -> None:
    path = write(PROGRAM.replace("\n", "\nimport json\n", 1) + "return json.loads('{')\n")
    stderr = invoke("run", path).stderr
    assert "decoder.py" in stderr
    assert "JSONDecodeError" in stderr


def test_causes_of_the_users_exception_are_shown(write: Write, invoke: Invoke) -> None:
    body = "try: 1 / 0\n    except ArithmeticError as e: raise ValueError('v') from e\n"
    stderr = invoke("run", write(PROGRAM + body)).stderr
    assert (
        stderr.index("ZeroDivisionError")
        < stderr.index("direct cause")
        < stderr.index("ValueError: v")
    )
    assert "/scalops/" not in stderr


def test_cause_of_an_error_of_ours_shows_the_users_lines(
    write: Write, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    user: dict[str, Any] = {"__name__": "program"}
    exec(compile("def f(x):\n    return 1 / x\n", "/home/user/program.py", "exec"), user)
    try:
        user["f"](0)
    except ZeroDivisionError as error:
        cause = error
    failure = so.UserFunctionError("f() failed", location=Location("/home/user/program.py", 9))
    failure.__cause__ = cause
    failing_run(monkeypatch, failure)
    result = invoke("run", write(PROGRAM + "return so.table({'x': [1.0]}).count()\n"))
    assert result.exit_code == 1
    assert 'File "/home/user/program.py", line 2, in f' in result.stderr
    assert "ZeroDivisionError: division by zero\n" in result.stderr
    assert result.stderr.endswith("UserFunctionError: f() failed (program.py:9)\n")


def test_cause_inside_scalops_is_not_shown(
    write: Write, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = so.DataError("no such file")
    try:
        Path("/no/such/file").stat()
    except OSError as error:
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
        failure.__cause__ = error
    failing_run(monkeypatch, failure)
    result = invoke("run", write(PROGRAM + "return so.table({'x': [1.0]}).count()\n"))
    assert result.stderr == "DataError: no such file\n"


def test_cause_from_another_process_shows_its_text(
    write: Write, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = so.UserFunctionError("f() failed")
    failure.__cause__ = KeyError("k")
    failing_run(monkeypatch, failure)
    result = invoke("run", write(PROGRAM + "return so.table({'x': [1.0]}).count()\n"))
    assert result.stderr == "KeyError: 'k'\nUserFunctionError: f() failed\n"


def test_line_of_a_caller_is_not_taken_for_the_users(
    write: Write, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(*given: Any) -> Any:
        raise so.ConfigError("no such option")

    monkeypatch.setattr(importlib.import_module("scalops.session"), "execute", execute)
    result = invoke("run", write(PROGRAM + "return so.table({'x': [1.0]}).count()\n"))
    assert result.stderr == "ConfigError: no such option\n"


def test_defect_of_ours_hides_nothing(
    write: Write, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("scalops.session")
    # These tests' own lines stand for ours: none of the user's is involved.
    monkeypatch.setattr(module, "collect", lambda *_, **__: [].pop())
    monkeypatch.setattr("scalops.cli.failures._is_user", lambda frame: False)
    result = invoke("run", write(PROGRAM + "return so.table({'x': [1.0]}).count()\n"))
    assert result.exit_code == 1
    assert "running.py" in result.stderr
    assert "IndexError: pop from empty list" in result.stderr


@pytest.mark.parametrize(
    ("returned", "found"),
    [("None", "None"), ("3", "a int"), ("[3]", "a list that holds other things")],
)
def test_program_that_returns_nothing_to_run(
    write: Write, invoke: Invoke, returned: str, found: str
) -> None:
    for command in ("run", "explain"):
        result = invoke(command, write(PROGRAM + f"return {returned}\n"))
        assert result.exit_code == 1
        assert result.stderr.startswith(f"PlanError: main() returns {found}; expected a Loop")
        assert "(program.py:3)" in result.stderr


def test_interrupt_is_one_line(write: Write, invoke: Invoke) -> None:
    result = invoke("run", write(PROGRAM + "raise KeyboardInterrupt\n"))
    assert (result.exit_code, result.stderr) == (130, "Interrupted\n")


def test_exit_of_the_program_is_its_own(write: Write, invoke: Invoke) -> None:
    assert invoke("run", write(PROGRAM + "raise SystemExit(5)\n")).exit_code == 5
