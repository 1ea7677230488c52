"""The command as a process of its own."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Write

SCALOPS = [sys.executable, "-m", "scalops"]


def run(*arguments: object, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *python, "-m", "scalops", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_console_script_offers_help() -> None:
    script = Path(sys.executable).with_name("scalops")
    if not script.exists():
        pytest.skip("the console script is not installed beside this interpreter")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^  run +Run a program and print its result\.$", done.stdout, re.MULTILINE)


def test_help_needs_no_rich() -> None:
    done = run("--help", python=("-X", "importtime"))
    assert done.returncode == 0
    assert "click" in done.stderr
    assert not any(line.split("|")[-1].strip() == "rich" for line in done.stderr.splitlines())


def test_command_line_alone_imports_no_language() -> None:
    # scalops/__init__.py may import what it likes; the command line adds nothing heavy.
    code = """
import sys, types
package = types.ModuleType("scalops")
package.__path__ = [sys.argv.pop(1)]
sys.modules["scalops"] = package
from scalops.cli.commands import cli
cli(["run", "--help"], standalone_mode=False)
heavy = {"numpy", "pyarrow", "rich", "scalops.session", "scalops.loop"} & set(sys.modules)
raise SystemExit(f"imported: {heavy}" if heavy else 0)
"""
    package = Path(__file__).parents[2] / "scalops"
    done = subprocess.run(
        [sys.executable, "-c", code, package], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_exit_codes_reach_the_shell(write: Write) -> None:
    path = write("import scalops as so\n@so.program\ndef main():\n    raise ValueError('no')\n")
    failed = run("run", path)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1] == "ValueError: no"
    assert "runpy" not in failed.stderr
    assert run("run", path, "--no-such").returncode == 2


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_interrupt_ends_with_one_line(write: Write) -> None:
    path = write(
        "import time\nimport scalops as so\n@so.program\ndef main():\n"
        "    print('started', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [*SCALOPS, "run", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        assert process.stderr.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "Interrupted\n"
        assert process.wait(timeout=30) == 130


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_closed_pipe_is_quiet(write: Write) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [*SCALOPS, "run", "--help"], stdout=write_end, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(write_end)
    assert done.stderr == b""
