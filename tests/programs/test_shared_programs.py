"""The shared programs run unchanged, give the same bits everywhere, and explain themselves."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalops as so
from tests.cli.conftest import Invoke

# (program, what it prints when it runs by itself)
PROGRAMS = ("logistic_regression", "bgd_scalops2012", "normal_equations", "rcv1_sparse", "smoothing")


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest, shared_programs: Path, shared_data: Path) -> Path:
    """The path of a program whose data are there."""
    return shared_programs / f"{request.param}.py"


def load(path: Path) -> Any:
    """The program's module."""
    spec = importlib.util.spec_from_file_location(f"shared_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bits(result: Any) -> Any:
    """Every array of a result, byte by byte."""
    if isinstance(result, so.Environment):
        return {name: bits(value) for name, value in vars(result).items()}
    if isinstance(result, dict):
        return {name: bits(value) for name, value in result.items()}
    return np.asarray(result).tobytes()


def test_runs_by_itself(program: Path) -> None:
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(program.stem)


def test_runs_through_the_command_line(program: Path, invoke: Invoke) -> None:
    done = invoke("run", program, "--json")
    assert done.exit_code == 0, done.stderr
    json.loads(done.stdout)


def test_gives_the_same_bits_for_any_threads_and_memory(program: Path) -> None:
    module = load(program)
    # A budget below the table reads the file again in each iteration: fewer of them will do.
    few = {"eps": 1e-2} if program.stem == "logistic_regression" else {}
    results = []
    for options in (
        {"threads": 1},
        {"threads": 2},
        {"threads": 4},
        {"threads": 2, "memory": "20KB"},
        {"threads": 4, "memory": "1MB"},
    ):
        with so.session(**options):
            results.append(bits(so.collect(module.main(**few))))
    assert all(r == results[0] for r in results)


def test_explains_without_running(program: Path, invoke: Invoke) -> None:
    text = explained(invoke, program, "all")
    assert max(map(len, text.splitlines())) <= 100


def explained(invoke: Invoke, path: Path, stage: str) -> str:
    """What `scalops explain` prints."""
    done = invoke("explain", path, "--stage", stage)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_logistic_regression_is_one_pass_over_cached_emails(
    shared_programs: Path, shared_data: Path, invoke: Invoke
) -> None:
    text = explained(invoke, shared_programs / "logistic_regression.py", "optimized")
    lines = [line.strip() for line in text.splitlines()]
    passes = [i for i, line in enumerate(lines) if line.startswith("MapReduceUpdate")]
    assert len(passes) == 1
    inside = "\n".join(lines[passes[0] :])
    assert "as above" in lines[-1] or "Cache" in inside
    assert not any(word in inside for word in ("Scan", "assemble", "log1p(x"))
    assert inside.count("x @ env.w") == 1
    before = "\n".join(lines[: passes[0]])
    assert all(word in before for word in ("Cache", "log1p(assemble(", "Scan spambase.data"))
