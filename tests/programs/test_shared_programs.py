"""The shared programs run unchanged, give the same bits everywhere, and explain themselves."""

from __future__ import annotations

import importlib.util
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from tests.cli.conftest import Invoke
from tests.quick import quick

# What a program prints when it runs by itself and agrees with its reference.
PROGRAMS = {
    "logistic_regression": "403 iterations, loss 0.246083",
    "bgd_scalops2012": "objective 216.2239",
    "normal_equations": "linear regression and Newton agree with the references",
    "rcv1_sparse": "accuracy 0.8720",
    "smoothing": "four cumulative aggregates agree",
    "kmeans": "12 iterations, 10 centroids",
    "pagerank": "7115 nodes, 29 iterations, worst difference",
    "pregel_components": "24 components in 6 supersteps",
    "matrix_factorization": "RMSE 0.0196",
    "spam_pipeline": "5574 messages, accuracy 0.9587",
    "books_and_authors": "agrees with DuckDB",
    "parallel_sgd": "loss 53.551 after 5 rounds",
}
# Parameters for runs that are repeated.
FEW: dict[str, dict[str, Any]] = {
    # A budget below the table reads the file again in each iteration: fewer of them will do.
    "logistic_regression": {"eps": 1e-2},
    "rcv1_sparse": {"rounds": 4},
    "kmeans": {"steps": 2},
    "pagerank": {"tolerance": 1e-3},
    "matrix_factorization": {"steps": 2},
    "spam_pipeline": {"rounds": 3},
    "parallel_sgd": {"rounds": 1},
}


@pytest.fixture(params=PROGRAMS)
def program(
    request: pytest.FixtureRequest,
    shared_programs: Path,
    shared_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The path of a program whose data are there; its folder is on the path, as if it ran."""
    monkeypatch.syspath_prepend(shared_programs)
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
    if isinstance(result, pa.Table):
        return result.schema.names, result.to_pylist()
    return np.asarray(result).tobytes()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the programs leave files open
def test_agrees_with_its_reference(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(program), run_name="__main__")
    assert capsys.readouterr().out.startswith(f"{program.stem}: {PROGRAMS[program.stem]}")


def test_runs_by_itself(shared_programs: Path) -> None:
    command = [sys.executable, str(shared_programs / "books_and_authors.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"books_and_authors: {PROGRAMS['books_and_authors']}\n"


def test_runs_through_the_command_line(program: Path, invoke: Invoke) -> None:
    few = FEW.get(program.stem, {})
    done = invoke("run", program, "--json", *(f"--{n}={v}" for n, v in few.items()))
    assert done.exit_code == 0, done.stderr
    json.loads(done.stdout)


@pytest.mark.parametrize("ways", quick([3, 5], 1))
def test_gives_the_same_bits_for_any_threads_and_memory(program: Path, ways: int) -> None:
    module = load(program)
    results = []
    every: list[dict[str, Any]] = [
        {"threads": 1},
        {"threads": 4},
        {"threads": 2, "memory": "20KB"},
        {"threads": 2},
        {"threads": 4, "memory": "1MB"},
    ]
    for options in every[:ways]:
        with so.session(**options):
            results.append(bits(so.collect(module.main(**FEW.get(program.stem, {})))))
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
