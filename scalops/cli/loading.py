"""From `program.py[:name]` to the Program in that file."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import click


def split_program(given: str) -> tuple[Path, str | None]:
    """The file and the name in `program.py:name`; a usage error where there is no such file."""
    file, colon, name = given.rpartition(":")
    if not colon or not name.isidentifier() or os.path.exists(given):
        file, name = given, ""
    path = Path(os.path.abspath(file))
    if path.is_dir():
        raise click.UsageError(f"{file!r} is a folder; give the program's file.")
    if not path.exists():
        hint = f" Did you mean {file}.py?" if Path(f"{path}.py").is_file() else ""
        raise click.UsageError(f"There is no file {file!r}.{hint}")
    if not os.access(path, os.R_OK):
        raise click.UsageError(f"The file {file!r} cannot be read.")
    return path, name or None


def module_name(path: Path) -> str:
    """The file's stem, or another name where a module of that name exists.

    A file `numpy.py` must not stand in the place of NumPy, nor be taken for it.
    """
    stem = re.sub(r"\W", "_", path.stem)
    name = stem
    while _is_taken(name, path):
        name = f"program_{name}"
    return name


def _is_taken(name: str, path: Path) -> bool:
    if name in sys.modules or name in sys.stdlib_module_names:
        return True
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    if spec is None or spec.origin is None:
        return False
    return os.path.realpath(spec.origin) != os.path.realpath(path)


def execute_file(path: Path) -> ModuleType:
    """The file as a module; its folder comes first on sys.path.

    No compiled copy is read or written, as for a script.
    """
    name = module_name(path)
    loader = SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    folder = os.path.dirname(os.path.realpath(path))
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    sys.modules[name] = module  # as an import does: dataclasses and pickle look there
    try:
        exec(loader.source_to_code(path.read_bytes(), str(path)), module.__dict__)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def choose_program(module: ModuleType, path: Path, name: str | None) -> Any:
    """The Program of that name; without a name `main`, else the only one defined in the file."""
    from scalops.program import Program

    programs = {n: v for n, v in vars(module).items() if isinstance(v, Program)}
    own = {n: v for n, v in programs.items() if _is_defined_in(v.function, module)}
    if name is not None:
        return programs.get(name) or _no_such_program(module, path, name, list(programs))
    if "main" in own:
        return own["main"]
    if len({id(p) for p in own.values()}) == 1:
        return next(iter(own.values()))
    if own:
        raise click.UsageError(
            f"{path.name} has several programs: {', '.join(own)}."
            f" Choose one: {path.name}:{next(iter(own))}"
        )
    if "main" in programs:
        return programs["main"]
    message = f"{path.name} defines no program; decorate a function with @so.program."
    if callable(getattr(module, "main", None)):
        message = f"{path.name} defines no program; decorate main() with @so.program."
    if programs:
        message += (
            f" Imported: {', '.join(programs)}; choose one: {path.name}:{next(iter(programs))}"
        )
    raise click.UsageError(message)


def _no_such_program(module: ModuleType, path: Path, name: str, programs: list[str]) -> Any:
    if hasattr(module, name):
        kind = type(getattr(module, name)).__name__
        problem = f"{name} in {path.name} is a {kind}, not a program."
        hint = f"decorate it with @so.program{', or choose' if programs else ''}"
    else:
        problem = f"{path.name} has no program {name!r}."
        hint = "its programs are" if programs else "decorate a function with @so.program"
    raise click.UsageError(
        f"{problem} {hint.capitalize()}{': ' if programs else ''}{', '.join(programs)}"
    )


def _is_defined_in(function: Any, module: ModuleType) -> bool:
    plain = inspect.unwrap(function)
    code = getattr(plain, "__code__", None)
    if getattr(plain, "__module__", None) == module.__name__:
        return True
    return code is not None and code.co_filename == module.__file__
