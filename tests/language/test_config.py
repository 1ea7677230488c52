"""Options: where each value comes from, in which order, and what is refused where."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops import configuration
from scalops.engine.memory import MemoryBudget
from scalops.options import OPTIONS
from tests.language.witness import line

# Every option by a value that is not its default, as a call, a variable and a file have it.
VALUES: dict[str, tuple[Any, str, str, Any]] = {
    "threads": (3, "3", "3", 3),
    "memory": ("2GB", "2GB", '"2GB"', 2 * 10**9),
    "spill": ("/", "/", '"/"', "/"),
    "opaque": ("error", "error", '"error"', "error"),
    "implicit_collect": (False, "no", "false", False),
    "processes": (2, "2", "2", 2),
    "task_timeout": (1.5, "1.5", "1.5", 1.5),
    "folds": ("processes", "processes", '"processes"', "processes"),
    "jit": (False, "no", "false", False),
    "workers": (2, "2", "2", 2),
    "connect": ("ipc:///a/b", " ipc:///a/b ", '"ipc:///a/b"', "ipc:///a/b"),
    "fan_in": (3, "3", "3", 3),
    "lease": (2.5, "2.5", "2.5", 2.5),
    "objective": ("cost", "cost", '"cost"', "cost"),
    "price": (0.25, "0.25", "0.25", 0.25),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of the test's own, and no variables."""
    for variable in list(os.environ):
        if variable.startswith("SCALOPS_"):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(configuration, "_warned", set())
    return tmp_path


@pytest.fixture
def total() -> Any:
    """A Value."""
    return so.table({"a": [1.0, 2.0, 3.0]}).sum("a")


def file_in(folder: Path, text: str) -> Path:
    """A scalops.toml."""
    path = folder / "scalops.toml"
    path.write_text(text, encoding="utf-8")
    return path


# Where a value comes from.


@pytest.mark.parametrize("name", [n for n in OPTIONS if n != "key"])
def test_the_order_is_session_environment_file_default(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, text, toml, value = VALUES[name]
    with so.session():
        default = so.config()[name]
        assert default != value
        assert so.config().source(name) == "default"
    path = file_in(folder, f"{name} = {toml}\n")
    with so.session():
        assert (so.config()[name], so.config().source(name)) == (value, str(path))
    monkeypatch.setenv(f"SCALOPS_{name.upper()}", text)
    with so.session():
        assert (so.config()[name], so.config().source(name)) == (value, f"SCALOPS_{name.upper()}")
    with so.session(**{name: default}) as session:
        assert (so.config()[name], so.config().source(name)) == (default, "session")
        assert getattr(session.options, name) == default
    with so.session(**{name: call}):
        assert (so.config()[name], so.config().source(name)) == (value, "session")


def test_a_call_comes_before_the_session(total: Any) -> None:
    with so.session(threads=3, memory="1GB"):
        asked = so.config(memory="2GB")
        assert (asked["memory"], asked.source("memory")) == (2 * 10**9, "call")
        assert (asked["threads"], asked.source("threads")) == (3, "session")
        assert so.config()["memory"] == 10**9  # a call changes nothing after it
        assert so.collect(total, threads=1, memory="2GB") == 6.0


def test_a_call_gives_its_run_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int | None] = []
    begin = MemoryBudget.__init__

    def noted(self: MemoryBudget, limit: int | None = None, folder: str | None = None) -> None:
        limits.append(limit)
        begin(self, limit, folder)

    monkeypatch.setattr(MemoryBudget, "__init__", noted)
    table = so.table({"a": np.arange(100.0)}).repartition(2)
    with so.session(threads=1, memory="1GB"):
        assert so.collect(table, memory=10).num_rows == 100
        assert so.collect(table).num_rows == 100
    assert limits == [10, 10**9]


@pytest.mark.parametrize(
    "name", ["opaque", "implicit_collect", "processes", "task_timeout", "folds", "workers"]
)
def test_a_call_cannot_be_told_what_is_the_sessions(name: str, total: Any) -> None:
    with pytest.raises(so.ConfigError, match=rf"so\.session\({name}=\.\.\.\) takes it"):
        so.collect(total, **{name: VALUES[name][0]})
    with pytest.raises(so.ConfigError, match="collect\\(\\) has no option"):
        so.config(**{name: VALUES[name][0]})


def test_an_inner_session_keeps_what_it_is_not_told() -> None:
    with so.session(threads=3, opaque="error"):
        with so.session(threads=2):
            assert (so.config()["threads"], so.config()["opaque"]) == (2, "error")
            with so.session(memory="1GB"):
                assert [so.config()[n] for n in ("threads", "opaque", "memory")] == [
                    2, "error", 10**9,
                ]  # fmt: skip
                assert so.config().source("threads") == "session"
        assert so.config()["threads"] == 3
    assert so.config().source("opaque") == "default"


def test_an_inner_session_can_go_back_to_what_is_automatic() -> None:
    names = ("memory", "task_timeout", "processes")
    with so.session(memory="1GB", task_timeout=5, processes=1):
        inner = so.session(**dict.fromkeys(names))
        with inner:
            assert [so.config()[n] for n in names] == [None, None, None]


def test_a_session_is_of_its_thread() -> None:
    seen: list[Any] = []
    with so.session(threads=3):
        thread = threading.Thread(target=lambda: seen.append(so.config().source("threads")))
        thread.start()
        thread.join()
    assert seen == ["default"]


def test_a_session_keeps_the_options_it_was_made_with(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_in(folder, "threads = 3\n")
    with so.session():
        monkeypatch.setenv("SCALOPS_THREADS", "4")
        file_in(folder, "threads = 55\n")
        assert so.config()["threads"] == 3
        monkeypatch.delenv("SCALOPS_THREADS")
        with so.session():
            assert so.config()["threads"] == 55  # a later one reads the changed file


def test_config_prints_a_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file_in(folder, 'opaque = "error"\n')
    monkeypatch.setenv("SCALOPS_MEMORY", "512MiB")
    with so.session(threads=2):
        found = so.config()
    assert [row.split() for row in repr(found).splitlines()] == [
        ["option", "value", "source"],
        ["threads", "2", "session"],
        ["memory", str(512 * 2**20), "SCALOPS_MEMORY"],
        ["spill", "None", "default"],
        ["opaque", "error", str(path)],
        ["implicit_collect", "True", "default"],
        ["processes", str(found["processes"]), "default"],
        ["task_timeout", "None", "default"],
        ["folds", "auto", "default"],
        ["jit", "auto", "default"],
        ["workers", "0", "default"],
        ["connect", "None", "default"],
        ["key", "None", "default"],
        ["fan_in", "None", "default"],
        ["lease", "10.0", "default"],
        ["objective", "time", "default"],
        ["price", "None", "default"],
    ]
    assert str(found) == repr(found)
    assert list(found) == list(OPTIONS)
    assert dict(found)["threads"] == 2
    assert len(found) == len(OPTIONS)
    with pytest.raises(KeyError):
        found["thread"]


# The file.


def test_the_nearest_file_above_counts_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file_in(folder, 'threads = 3\nmemory = "1GB"\n')
    (folder / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(folder / "a" / "b")
    with so.session():
        assert so.config()["threads"] == 3
    nearer = file_in(folder / "a", "threads = 5\n")
    (folder / "a" / "b" / "scalops.toml").mkdir()  # a folder of this name is passed by
    with so.session():
        assert (so.config()["threads"], so.config().source("threads")) == (5, str(nearer))
        assert so.config()["memory"] is None


def test_an_empty_file_and_one_with_a_byte_order_mark_are_read(folder: Path) -> None:
    path = file_in(folder, "")
    with so.session():
        assert {so.config().source(n) for n in OPTIONS} == {"default"}
    path.write_bytes(b"\xef\xbb\xbf# options\r\nthreads = 3\r\n")
    with so.session():
        assert so.config()["threads"] == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('threads = "many"', "threads is 'many' ({path}:1); expected an int of at least 0"),
        ("# one\nthreads = 1.5", "threads is 1.5 ({path}:2); expected an int of at least 0"),
        ("threads = true", "threads is True ({path}:1); expected an int"),
        ("threads = -1", "threads is -1 ({path}:1); expected an int of at least 0"),
        ("processes = 100000", "processes is 100000 ({path}:1); expected an int"),
        ("memory = [4]", "memory is [4] ({path}:1); expected bytes, or a text such as '4GB'"),
        ('\nmemory = "4 bananas"', "memory is '4 bananas' ({path}:2); expected bytes"),
        ('"opaque" = "maybe"', "opaque is 'maybe' ({path}:1); expected 'run' or 'error'"),
        ("workers = -1", "workers is -1 ({path}:1); expected an int of at least 0"),
        ('connect = "h:1"', "connect is 'h:1' ({path}:1); expected 'tcp://host:port'"),
        ("fan_in = 1", "fan_in is 1 ({path}:1); expected an int of at least 2 and at most 4096"),
        ("lease = 0.01", "lease is 0.01 ({path}:1); expected seconds, from 0.1 to 3600"),
        ("key = 3", "key is 3 ({path}:1); expected the path of a file"),
        ("opaque = { a = 1 }", "opaque is {{'a': 1}} ({path}:1); expected 'run' or 'error'"),
        ("implicit_collect = 2", "implicit_collect is 2 ({path}:1); expected true or false"),
        ("task_timeout = -1.0", "task_timeout is -1.0 ({path}:1); expected seconds"),
        ("task_timeout = inf", "task_timeout is inf ({path}:1); expected seconds"),
        ("task_timeout = 2026-01-01", "({path}:1); expected seconds"),
        ("thread = 2", "{path}:1 has no option ['thread']; its options are ['threads'"),
        ("[session]\nthreads = 2", "{path}:1: [session] is a section; options stand at the top"),
        ("threads = 2\nthreads = 3", "{path} is not TOML: Cannot overwrite a value (at "),
        ("threads = \n", "{path} is not TOML: Invalid value (at line 1, column 11)"),
        ("threads", "{path} is not TOML: "),
        ("x = " + "[" * 5000, "{path} is not TOML: it is nested too deeply"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_line(
    text: str, says: str, folder: Path
) -> None:
    path = file_in(folder, text)
    for _ in range(2):  # it is no better when it is read again
        with pytest.raises(so.ConfigError) as caught:
            so.session()
        at = line() - 1
        assert says.format(path=path) in str(caught.value)
        assert caught.value.location is not None
        assert (caught.value.location.file, caught.value.location.line) == (__file__, at)
    path.unlink()
    with so.session():
        assert so.config().source("threads") == "default"


def test_a_file_of_other_bytes_is_named(folder: Path) -> None:
    path = folder / "scalops.toml"
    path.write_bytes(b"threads = \xff")
    with pytest.raises(so.ConfigError, match=r"scalops\.toml is not TOML: byte 10 is not UTF-8"):
        so.session()


def test_a_file_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file_in(folder, "threads = 2")

    def refused(*_: Any, **__: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(so.ConfigError) as caught:
        so.session()
    assert f"{path} cannot be read: Permission denied" in str(caught.value)


def test_a_deleted_working_directory_has_no_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with so.session():
        assert so.config().source("threads") == "default"


# Variables.


@pytest.mark.parametrize(
    ("variable", "text", "says"),
    [
        ("SCALOPS_THREADS", "many", "SCALOPS_THREADS is 'many'; expected an int of at least 0"),
        ("SCALOPS_THREADS", "-2", "SCALOPS_THREADS is '-2'; expected an int of at least 0"),
        ("SCALOPS_THREADS", "1" * 5000, "SCALOPS_THREADS is '111"),
        ("SCALOPS_PROCESSES", "2.0", "SCALOPS_PROCESSES is '2.0'; expected an int"),
        ("SCALOPS_MEMORY", "0GB", "SCALOPS_MEMORY is '0GB'; expected bytes"),
        ("SCALOPS_MEMORY", "1e400", "SCALOPS_MEMORY is '1e400'; expected bytes"),
        ("SCALOPS_MEMORY", "nan", "SCALOPS_MEMORY is 'nan'; expected bytes"),
        ("SCALOPS_MEMORY", "-1GB", "SCALOPS_MEMORY is '-1GB'; expected bytes"),
        ("SCALOPS_OPAQUE", "Error", "SCALOPS_OPAQUE is 'Error'; expected 'run' or 'error'"),
        ("SCALOPS_IMPLICIT_COLLECT", "maybe", "SCALOPS_IMPLICIT_COLLECT is 'maybe'; expected true"),
        ("SCALOPS_TASK_TIMEOUT", "0", "SCALOPS_TASK_TIMEOUT is '0'; expected seconds"),
        ("SCALOPS_WORKERS", "two", "SCALOPS_WORKERS is 'two'; expected an int of at least 0"),
        ("SCALOPS_CONNECT", "tcp://h:99999", "SCALOPS_CONNECT is 'tcp://h:99999'; expected 'tcp"),
    ],
)
def test_a_variable_that_makes_no_sense_is_named(
    variable: str, text: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(so.ConfigError) as caught:
        so.session()
    assert says in str(caught.value)
    assert len(str(caught.value)) < 400
    assert caught.value.location is not None
    assert caught.value.location.file == __file__


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALOPS_THREADS", " ")
    with so.session():
        assert so.config().source("threads") == "default"


def test_a_misspelt_variable_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SCALOPS_THREAD", "2")
    monkeypatch.setenv("SCALOPS_TEST_DATA", "elsewhere")
    with caplog.at_level(logging.WARNING, "scalops"):
        so.session()
        so.session()
    assert caplog.messages == [
        "the variable SCALOPS_THREAD is no option; did you mean SCALOPS_THREADS?"
    ]


# Values.


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1, 1), ("1", 1), ("10 B", 10), ("4GB", 4 * 10**9), ("4 gb", 4 * 10**9), (4e9, 4 * 10**9),
        ("0.5GiB", 2**29), ("512MiB", 2**29), ("2KB", 2000), ("1TB", 10**12), ("1e3 KiB", 1024000),
        (np.int64(7), 7), ("9007199254740993", 9007199254740993), (None, None),
    ],
)  # fmt: skip
def test_memory_is_bytes_or_a_text(text: Any, size: Any) -> None:
    assert so.session(memory=text).options.memory == size


@pytest.mark.parametrize(
    "text",
    ["", "GB", "4 bananas", "4G", "1.GB.5", 0, -1, 0.2, True, float("nan"), float("inf"), [4],
     "²GB", "1e300GB", 2**63, b"4GB", object(), {}, 1j],
)  # fmt: skip
def test_memory_is_nothing_else(text: Any) -> None:
    with pytest.raises(so.ConfigError, match=r"memory is .*; expected bytes, or a text"):
        so.session(memory=text)


@pytest.mark.parametrize("name", ["threads", "processes", "workers"])
@pytest.mark.parametrize("value", ["", "two", 1.0, 1.5, -1, True, 5000, [1], 1j, b"2", object()])
def test_counts_are_ints(name: str, value: Any) -> None:
    with pytest.raises(so.ConfigError, match=f"{name} is .*; expected an int of at least 0"):
        so.session(**{name: value})
    given: dict[str, Any] = {name: np.int32(2)}
    assert getattr(so.session(**given).options, name) == 2
    assert getattr(so.session(**{name: " 2 "}).options, name) == 2


@pytest.mark.parametrize(
    ("value", "seconds"), [(1, 1.0), ("30", 30.0), ("1.5s", 1.5), (np.float32(2), 2.0)]
)
def test_a_timeout_is_seconds(value: Any, seconds: float) -> None:
    assert so.session(task_timeout=value).options.task_timeout == seconds


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "soon", True, 1e7, [1]])
def test_a_timeout_is_nothing_else(value: Any) -> None:
    with pytest.raises(so.ConfigError, match=r"task_timeout is .*; expected seconds"):
        so.session(task_timeout=value)


@pytest.mark.parametrize("value", [2, None, "", "maybe", [True], 1.0])
def test_a_flag_is_true_or_false(value: Any) -> None:
    with pytest.raises(so.ConfigError, match=r"implicit_collect is .*; expected true or false"):
        so.session(implicit_collect=value)
    assert so.session(implicit_collect="Off").options.implicit_collect is False
    assert so.session(implicit_collect=np.True_).options.implicit_collect is True


def test_several_unknown_options_are_told_together() -> None:
    with pytest.raises(so.ConfigError, match=r"no option \['memroy', 'thread'\].*'memory'\?"):
        so.session(thread=1, memroy=2)


# What a broken configuration does not stop.


@pytest.fixture
def scalops(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The interpreter, run in the folder."""

    def call(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True, text=True, check=False, timeout=60, cwd=folder,
            env={**os.environ, **variables},
        )  # fmt: skip

    return call


def test_a_broken_file_stops_no_import_and_no_help(
    folder: Path, scalops: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    file_in(folder, "this is not TOML")
    written = "import scalops as so; t = so.table({'a': [1.0]}); print(t.sum('a').explain() > '')"
    assert scalops("-c", written).stdout == "True\n"
    assert scalops("-m", "scalops", "--help").returncode == 0
    failed = scalops("-c", "import scalops as so; so.table({'a': [1.0]}).sum('a').collect()")
    assert "ConfigError" in failed.stderr
    assert "scalops.toml is not TOML" in failed.stderr


def test_the_command_line_reads_file_and_variables(
    folder: Path, scalops: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (folder / "p.py").write_text(
        "import scalops as so\n"
        "@so.program\n"
        "def main():\n"
        "    print(so.config())\n"
        "    return so.table({'a': [1.0]}).sum('a')\n"
    )
    path = file_in(folder, 'threads = 1\nmemory = "1GB"\n')
    done = scalops("-m", "scalops", "run", "p.py", SCALOPS_THREADS="2")
    assert done.returncode == 0, done.stderr
    rows = [row.split() for row in done.stderr.splitlines()]
    assert ["threads", "2", "SCALOPS_THREADS"] in rows
    assert ["memory", "1000000000", str(path)] in rows
    failed = scalops("-m", "scalops", "run", "p.py", SCALOPS_THREADS="few")
    assert failed.returncode == 1
    assert "ConfigError: SCALOPS_THREADS is 'few'; expected an int" in failed.stderr
    assert "Traceback" not in failed.stderr
