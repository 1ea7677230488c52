"""Which program a command line means, and what is said where there is none."""

import sys
from pathlib import Path

import pytest

from scalops.cli.loading import module_name
from tests.cli.conftest import Invoke, Write

PRINTS_ITS_NAME = """
import sys
import scalops as so

def announce(text):
    print(text, file=sys.stderr)
    raise SystemExit(0)
"""


def program(name: str) -> str:
    return f"\n@so.program\ndef {name}():\n    announce('this is {name}')\n"


@pytest.mark.parametrize(
    ("names", "asked", "taken"),
    [
        (["main"], "", "main"),
        (["other", "main"], "", "main"),
        (["only"], "", "only"),
        (["main", "other"], ":other", "other"),
    ],
)
def test_program_is_found(
    write: Write, invoke: Invoke, names: list[str], asked: str, taken: str
) -> None:
    path = write(PRINTS_ITS_NAME + "".join(map(program, names)))
    result = invoke("run", f"{path}{asked}")
    assert result.exit_code == 0
    assert result.stderr == f"this is {taken}\n"


def test_program_imported_from_elsewhere_is_not_the_only_one(write: Write, invoke: Invoke) -> None:
    write(PRINTS_ITS_NAME + program("main") + program("other"), "library.py")
    path = write("from library import *\nfrom library import so\n" + program("own"))
    assert invoke("run", path).stderr == "this is own\n"
    assert invoke("run", f"{path}:other").stderr == "this is other\n"


def test_imported_main_is_taken_when_the_file_defines_none(write: Write, invoke: Invoke) -> None:
    write(PRINTS_ITS_NAME + program("main") + program("other"), "library.py")
    path = write("from library import main, other\n")
    assert invoke("run", path).stderr == "this is main\n"


def test_one_program_under_two_names_is_one(write: Write, invoke: Invoke) -> None:
    path = write(PRINTS_ITS_NAME + program("train") + "\nalias = train\n")
    assert invoke("run", path).stderr == "this is train\n"


def test_several_programs_are_listed(write: Write, invoke: Invoke) -> None:
    result = invoke("run", write(PRINTS_ITS_NAME + program("train") + program("test")))
    assert result.exit_code == 2
    assert "has several programs: train, test. Choose one: program.py:train" in result.stderr


@pytest.mark.parametrize(
    ("text", "asked", "message"),
    [
        ("x = 1", "", "defines no program; decorate a function with @so.program"),
        ("def main(): ...", "", "decorate main() with @so.program"),
        ("def train(): ...", ":train", "train in program.py is a function, not a program"),
        ("x = 1", ":train", "has no program 'train'. Decorate a function with @so.program"),
        (PRINTS_ITS_NAME + program("main"), ":mian", "no program 'mian'. Its programs are: main"),
    ],
)
def test_missing_program_is_wrong_usage(
    write: Write, invoke: Invoke, text: str, asked: str, message: str
) -> None:
    result = invoke("run", f"{write(text)}{asked}")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_missing_file_is_wrong_usage(tmp_path: Path, invoke: Invoke) -> None:
    result = invoke("run", tmp_path / "none.py")
    assert result.exit_code == 2
    assert "There is no file" in result.stderr


def test_missing_suffix_is_noticed(write: Write, invoke: Invoke) -> None:
    path = write("x = 1")
    assert f"Did you mean {path}?" in invoke("run", path.with_suffix("")).stderr


def test_folder_is_wrong_usage(tmp_path: Path, invoke: Invoke) -> None:
    result = invoke("explain", tmp_path)
    assert result.exit_code == 2
    assert "is a folder; give the program's file" in result.stderr


def test_syntax_error_shows_the_line(write: Write, invoke: Invoke) -> None:
    path = write("x = 1\ny = (2 +\n")
    result = invoke("run", path)
    assert result.exit_code == 1
    assert f'File "{path}", line 2' in result.stderr
    assert "y = (2 +" in result.stderr
    assert "SyntaxError" in result.stderr
    assert "Traceback" not in result.stderr


def test_error_while_importing_shows_the_users_lines_only(write: Write, invoke: Invoke) -> None:
    library = write("def f(x):\n    return 1 / x\n", "library.py")
    path = write("import library\n\nlibrary.f(0)\n")
    result = invoke("run", path)
    assert result.exit_code == 1
    frames = [line.strip() for line in result.stderr.splitlines() if line.startswith("  File")]
    assert frames == [
        f'File "{path}", line 3, in <module>',
        f'File "{library}", line 2, in f',
    ]
    assert result.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_missing_import_shows_no_frames_of_importlib(write: Write, invoke: Invoke) -> None:
    result = invoke("run", write("import no_such_module\n"))
    assert result.exit_code == 1
    assert result.stderr.count("  File") == 1
    assert "ModuleNotFoundError: No module named 'no_such_module'" in result.stderr


def test_folder_of_the_program_comes_first_and_main_block_does_not_run(
    write: Write, invoke: Invoke
) -> None:
    # A module of the same name elsewhere on sys.path would lose.
    write("print('the neighbour')\n", "neighbour.py")
    path = write(
        """
        import sys
        import neighbour
        print(__name__, sys.path[0] == __import__("os").path.dirname(__file__))
        if __name__ == "__main__":
            print("as a script")
        """
    )
    assert invoke("run", path).stderr.splitlines()[:2] == ["the neighbour", "program True"]


def test_dataclasses_with_text_annotations_work(write: Write, invoke: Invoke) -> None:
    path = write(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "@dataclass\nclass P:\n    a: int\n    b: ClassVar[int] = 1\n"
    )
    assert "defines no program" in invoke("run", path).stderr


@pytest.mark.parametrize("stem", ["numpy", "scalops", "json", "sklearn"])
def test_file_named_like_a_module_does_not_take_its_place(tmp_path: Path, stem: str) -> None:
    assert module_name(tmp_path / f"{stem}.py") == f"program_{stem}"


def test_module_name_is_the_stem(tmp_path: Path) -> None:
    assert module_name(tmp_path / "my_training.py") == "my_training"
    assert module_name(tmp_path / "scalops.v2.py") == "scalops_v2"


def test_program_of_the_working_folder_keeps_its_name(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("", "in_this_folder.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert module_name(path) == "in_this_folder"
    assert "in_this_folder" not in sys.modules
