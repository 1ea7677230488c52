"""Checkpoints: saved, found damaged, refused, and resumed with the same bits."""

from __future__ import annotations

import logging
import os
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalops as so
from tests.engine.plans import bits
from tests.quick import quick

ITERATIONS = 7

# A program that is ended hard after some iteration; what it prints is the run's outcome.
PROGRAM = """
import os, signal, sys
import numpy as np
import scalops as so

class Model(so.Environment):
    w: np.ndarray
    single: np.float32
    mask: np.ndarray
    name: str
    steps: int
    loss: float

rng = np.random.default_rng(5)
xy = so.table({{"x": rng.normal(size=(4_000, 12)), "y": rng.normal(size=4_000)}})
xy = xy.filter(lambda r: r.y < 9).cache()
rate = {rate}
start = Model(w=np.zeros(12), single=1.5, mask=np.zeros(3, bool), name="é\\n", steps=0, loss=np.inf)

@so.loop(start, {condition}, max_iterations=50)
def model(env, i):
    def error(r):
        return r.x @ env.w - r.y
    env.w = env.w - rate * xy.map(lambda r: error(r) * r.x).mean()
    env.loss = xy.map(lambda r: error(r) ** 2).mean()
    env.single = env.single * 0.9 + i
    env.mask = np.arange(3) == i
    env.steps = env.steps + 1
    return env

def hook(i, env):
    if len(sys.argv) > 3 and i == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

how = {{"checkpoint": sys.argv[1], "every": {every}}}
if sys.argv[2] == "resume":
    how["resume"] = sys.argv[1]
result = model.run(on_iteration=hook, **how)
env = result.env
print(result.iterations, result.converged, env.w.tobytes().hex(), env.single.tobytes().hex(),
      env.mask.tolist(), repr(env.name), env.steps, env.loss.tobytes().hex())
for column in result.history.column_names:
    if column != "seconds":
        print(column, result.history.column(column).type, result.history.column(column).to_pylist())
"""
CONDITIONS = {
    "range": "range(3, 3 + 2 * 7, 2)",
    "so.range": "so.range(xy.count() // 571)",
    "condition": "lambda env: env.steps < 7",
}


def written(folder: Path, **parts: Any) -> Path:
    """The program's file in that folder."""
    folder.mkdir(exist_ok=True)
    file = folder / "program.py"
    text = PROGRAM.format(**{"rate": 0.25, "every": 1, "condition": CONDITIONS["range"]} | parts)
    file.write_text(text, encoding="utf-8")
    return file


def started(folder: Path, how: str, kill: int | None = None, **parts: Any) -> Any:
    """Run the program in a process of its own."""
    file = written(folder.parent, **parts)
    more = [] if kill is None else [str(kill)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(file), str(folder), how, *more]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


@pytest.mark.parametrize(("condition", "every"), quick([("so.range", 3), ("condition", 1)], 1))
def test_killed_run_resumes_in_another_process_with_the_same_bits(
    tmp_path: Path,
    condition: str,
    every: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    parts: dict[str, Any] = {"condition": CONDITIONS[condition], "every": every}
    program = written(tmp_path / "whole", **parts)
    monkeypatch.setattr(sys, "argv", [str(program), str(tmp_path / "whole" / "f"), "new"])
    runpy.run_path(str(program), run_name="__main__")
    whole = capsys.readouterr().out
    killed = started(tmp_path / "cut" / "f", "new", kill=4, **parts)
    assert killed.returncode == -9
    resumed = started(tmp_path / "cut" / "f", "resume", **parts)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == whole
    assert resumed.stdout.startswith("7 True")


def before(stop: int, i: int, env: Any) -> bool:
    """Whether an iteration comes before the one that is to be the last."""
    return i < stop


def test_every_iteration_may_be_the_last(tmp_path: Path) -> None:
    for start in (model(), bare(), nested()):
        whole = start.run(checkpoint=tmp_path / f"whole {id(start)}")
        for stop in range(whole.iterations):
            folder = tmp_path / f"{id(start)}-{stop}"
            start.run(checkpoint=folder, every=2, on_iteration=partial(before, stop))
            resumed = start.run(resume=folder)
            assert bits_of(resumed) == bits_of(whole)


DATA = so.table({"x": np.random.default_rng(2).normal(size=(500, 3)), "y": np.arange(500.0)})


class State(so.Environment):
    """All kinds of fields."""

    w: np.ndarray
    single: np.float32
    flag: bool
    name: str
    n: int
    when: Any


def model(rate: float = 0.1, data: so.Table = DATA, steps: int = 5, **options: Any) -> so.Loop:
    """A small training."""
    start = State(
        w=np.zeros(3), single=2.0, flag=False, name="a", n=0, when=np.datetime64("2026-01-01", "s")
    )

    @so.loop(start, range(steps), **options)
    def trained(env: Any, i: Any) -> Any:
        env.w = env.w - rate * data.map(lambda r: (r.x @ env.w - r.y) * r.x).mean()
        env.single = env.single / 3
        env.flag = ~env.flag
        env.n = env.n + i
        return env

    made: so.Loop = trained
    return made


def bare() -> Any:
    """A loop over one number."""
    return so.loop(1.0, lambda v: v < 40)(lambda v: v * 1.9 + DATA.count() * 1e-3)


def nested() -> Any:
    """A loop in a loop, over a tuple."""

    def body(env: Any) -> Any:
        inner = so.loop(env[0], so.range(env[1]))(lambda v: v / 3 + DATA.mean("y"))
        return inner, env[1] + 1

    return so.loop((0.5, 1), range(4))(body)


def bits_of(result: so.LoopResult) -> Any:
    """A result's bits, but for its seconds."""
    env = result.env
    fields = vars(env) if isinstance(env, so.Environment) else env
    history = result.history.drop_columns("seconds")
    return bits([fields, result.iterations, result.converged]), history.schema, history.to_pylist()


def files(folder: Path) -> list[str]:
    """Names in the folder."""
    return sorted(p.name for p in folder.iterdir())


def test_the_last_two_are_kept_and_nothing_else(tmp_path: Path) -> None:
    model(steps=5).run(checkpoint=tmp_path, every=2)
    assert files(tmp_path) == ["checkpoint-00000002.scalops", "checkpoint-00000003.scalops"]
    again = model(steps=5).run(resume=tmp_path, checkpoint=tmp_path)
    assert again.iterations == 5
    assert files(tmp_path) == ["checkpoint-00000003.scalops", "checkpoint-00000004.scalops"]


def test_folder_may_be_text_path_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = model().run(checkpoint="a/b")
    assert bits_of(model().run(resume=Path("a") / "b")) == bits_of(first)
    assert bits_of(model().run(resume=str(tmp_path / "a" / "b"))) == bits_of(first)


def test_a_loop_that_runs_zero_times_leaves_its_start(tmp_path: Path) -> None:
    result = model(steps=0).run(checkpoint=tmp_path)
    assert result.iterations == 0
    assert bits_of(model(steps=0).run(resume=tmp_path)) == bits_of(result)


def test_max_iterations_is_reached_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = model(max_iterations=3)
    with caplog.at_level(logging.WARNING, "scalops"):
        first = made.run(checkpoint=tmp_path)
        second = made.run(resume=tmp_path)
    assert (second.iterations, second.converged) == (3, False)
    assert bits_of(second) == bits_of(first)
    assert len(caplog.messages) == 2


def test_callbacks_go_on_counting(tmp_path: Path) -> None:
    model().run(checkpoint=tmp_path, on_iteration=lambda i, env: i != 2)
    heard: list[int] = []
    model().run(resume=tmp_path, on_iteration=lambda i, env: heard.append(i))
    assert heard == [3, 4]


def test_resumed_with_other_threads_memory_and_kept_values(tmp_path: Path) -> None:
    whole = model().run()
    model().run(checkpoint=tmp_path, on_iteration=lambda i, env: i != 2)
    with so.session(threads=2, memory="100KB"):
        DATA.count().collect()
        assert bits_of(model().run(resume=tmp_path)) == bits_of(whole)


def test_callback_that_fails_leaves_that_iterations_checkpoint(tmp_path: Path) -> None:
    def fail(i: int, env: Any) -> None:
        if i == 3:
            raise OSError("the plotter is out of paper")

    with pytest.raises(OSError, match="out of paper"):
        model().run(checkpoint=tmp_path, on_iteration=fail)
    heard: list[int] = []
    resumed = model().run(resume=tmp_path, on_iteration=lambda i, env: heard.append(i))
    assert heard == [4]
    assert bits_of(resumed) == bits_of(model().run())


# Damage.


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with the checkpoints after iterations 1 and 2, the second the newer."""
    model().run(checkpoint=tmp_path / "f", on_iteration=lambda i, env: i < 1)
    return tmp_path / "f"


def spoil(path: Path, how: str) -> None:
    """Damage a file."""
    content = path.read_bytes()
    spoilt = {
        "torn": content[: len(content) // 2],
        "empty": b"",
        "flipped": content[:200] + bytes([content[200] ^ 1]) + content[201:],
        "end": content[:-1],
        "longer": content + b"\0",
        "foreign": b"PK\3\4" * 100,
    }[how]
    path.write_bytes(spoilt)


@pytest.mark.parametrize("how", ["torn", "empty", "flipped", "end", "longer", "foreign"])
def test_damaged_newest_falls_back_to_the_one_before(
    saved: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(saved / "checkpoint-00000002.scalops", how)
    heard: list[int] = []
    with caplog.at_level(logging.WARNING, "scalops"):
        resumed = model().run(resume=saved, on_iteration=lambda i, env: heard.append(i))
    assert heard == [1, 2, 3, 4]
    assert bits_of(resumed) == bits_of(model().run())
    (message,) = caplog.messages
    assert "checkpoint-00000002.scalops is damaged" in message


def test_damaged_newest_gives_way_before_the_whole_one(saved: Path) -> None:
    spoil(saved / "checkpoint-00000002.scalops", "torn")
    model().run(resume=saved, checkpoint=saved, on_iteration=lambda i, env: False)
    assert files(saved) == ["checkpoint-00000001.scalops", "checkpoint-00000003.scalops"]


def test_none_whole_is_an_error_that_names_them(saved: Path) -> None:
    for path in saved.iterdir():
        spoil(path, "flipped")
    with pytest.raises(so.DataError, match=r"no checkpoint is whole.*0002\.scalops.*0001\.scalops"):
        model().run(resume=saved)


def test_every_flipped_bit_is_found(saved: Path) -> None:
    from scalops.engine.checkpoint import _Damaged, decode

    path = saved / "checkpoint-00000002.scalops"
    content = path.read_bytes()
    for at in range(0, len(content), 7):
        with pytest.raises(_Damaged):
            decode(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :], path)
    for length in range(0, len(content), 11):
        with pytest.raises(_Damaged):
            decode(content[:length], path)


def test_what_a_killed_write_left_is_cleared(saved: Path) -> None:
    (saved / ".checkpoint-00000003.scalops.part").write_bytes(b"half")
    model().run(resume=saved, checkpoint=saved)
    assert not [n for n in files(saved) if n.startswith(".")]


# Refusals.


def test_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(so.DataError, match=r"holds no checkpoint.*; run\(checkpoint="):
            model().run(resume=folder)


def test_folder_that_cannot_be_written_is_an_error_before_the_first_iteration(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    heard: list[int] = []
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(so.DataError, match=r"no checkpoint can be written to .*file"):
            model().run(checkpoint=folder, on_iteration=lambda i, env: heard.append(i))
    assert heard == []


def test_disk_that_fails_later_is_an_error_with_the_iteration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil_folder(i: int, env: Any) -> None:
        for path in tmp_path.joinpath("f").iterdir():
            path.unlink()
        tmp_path.joinpath("f").rmdir()

    with pytest.raises(so.DataError, match=r"no checkpoint can be written.*, in iteration 1"):
        model().run(checkpoint=tmp_path / "f", on_iteration=spoil_folder)


OTHER = so.table({"x": np.random.default_rng(3).normal(size=(500, 3)), "y": np.arange(500.0)})


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        (lambda: model(rate=0.2), "the body"),
        (lambda: model(data=OTHER), "the data of memory"),
        (lambda: model(steps=6), "the range"),
        (lambda: model(max_iterations=4), r"max_iterations \(None then, 4 now\)"),
        (bare, r"the environment \(w: float64\[3\].* then, value: float64 now\)"),
    ],
)
def test_checkpoint_of_another_plan_is_refused(saved: Path, other: Any, differs: str) -> None:
    heard: list[int] = []
    with pytest.raises(so.PlanError, match=rf"what differs is .*{differs}.*resume with") as caught:
        other().run(resume=saved, on_iteration=lambda i, env: heard.append(i))
    assert heard == []
    assert caught.value.location is not None
    if differs == "the body":
        assert "the data of" not in str(caught.value)
    if differs == "the data of memory":
        assert "the body" not in str(caught.value)


@pytest.mark.long
def test_edited_program_is_refused_in_another_process(tmp_path: Path) -> None:
    assert started(tmp_path / "f", "new", kill=2).returncode == -9
    edited = started(tmp_path / "f", "resume", rate=0.5)
    assert edited.returncode == 1
    assert "PlanError" in edited.stderr
    assert "what differs is the body" in edited.stderr


def test_other_format_version_is_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalops.engine.checkpoint.FORMAT_VERSION", 2)
    with pytest.raises(so.DataError, match=r"is a checkpoint of format 1; this version reads for"):
        model().run(resume=saved)


def test_new_run_over_old_checkpoints_warns_and_takes_their_place(
    saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    again = model()
    with caplog.at_level(logging.WARNING, "scalops"):
        again.run(checkpoint=saved, on_iteration=lambda i, env: i < 0)
    (message,) = caplog.messages
    assert "holds checkpoints of an earlier run" in message
    resumed = again.run(resume=saved)
    assert bits_of(resumed) == bits_of(again.run())


def test_new_run_does_not_replace_the_checkpoints_of_another_plan(saved: Path) -> None:
    before = sorted((p.name, p.read_bytes()) for p in saved.iterdir())
    with pytest.raises(so.PlanError, match=r"is a checkpoint of another program") as caught:
        model(rate=0.3).run(checkpoint=saved)
    assert caught.value.location is not None
    assert sorted((p.name, p.read_bytes()) for p in saved.iterdir()) == before


def test_one_folder_for_both_starts_where_it_is_empty_and_goes_on_where_not(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "f"
    stopped = model().run(
        checkpoint=folder, resume=folder, on_iteration=lambda i, env: False if i == 2 else None
    )
    assert stopped.iterations == 3
    heard: list[int] = []
    whole = model().run(
        checkpoint=folder, resume=folder, on_iteration=lambda i, env: heard.append(i)
    )
    assert heard[0] == 3
    assert bits_of(whole) == bits_of(model().run())
    with pytest.raises(so.DataError, match="holds no checkpoint"):
        model().run(resume=tmp_path / "none")


def test_opaque_functions_and_their_classes_have_one_fingerprint(tmp_path: Path) -> None:
    text = """
import sys
import numpy as np
import scalops as so

class Scale:
    def __init__(self, by):
        self.by = by

scale = Scale(2.0)
t = so.table({"x": np.arange(9.0)})

@so.loop(0.0, range(4))
def model(s):
    def slow(r):
        return r.x * scale.by if r.x > 3 else float(len("abc"))
    return s / 2 + t.map(slow).sum()

how = {"resume": sys.argv[1]} if sys.argv[2] == "resume" else {}
print(model.run(checkpoint=sys.argv[1], on_iteration=lambda i, env: bool(how) or i < 1, **how).env)
"""
    (tmp_path / "p.py").write_text(text)
    out = []
    for how, seed in (("new", "1"), ("resume", "2")):
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONHASHSEED": seed}
        command = [sys.executable, str(tmp_path / "p.py"), str(tmp_path / "f"), how]
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        assert done.returncode == 0, done.stderr
        out.append(float(done.stdout))
    step = sum(x * 2 if x > 3 else 3 for x in range(9))
    assert out == [step * 1.5, step * 1.875]
