"""What users install: the wheel's contents, its import, and what the import leaves alone."""

import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKED = ("algebra", "optimizer", "engine")
FOLDERS = ("scalops", *LINKED)
# Imported when used, so that `import scalops` stays quick.
HEAVY = {
    *("click", "duckdb", "matplotlib", "networkx", "numba", "pandas", "plotly", "polars"),
    *("psutil", "ray", "rich", "sklearn", "torch", "zmq"),
}


def run(*command: str | Path, cwd: Path = ROOT, path: Path | None = None) -> str:
    """Standard output of a command; where it fails, the test fails with what it said."""
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}", False)
    return done.stdout


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """Git's files that are there; what git does not track is not ours to ship."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    # Another owner's checkout, as in a container, is read all the same.
    names = run("git", "-c", f"safe.directory={ROOT}", "ls-files", "-z").split("\0")
    return [name for name in names if name and os.path.lexists(ROOT / name)]


@pytest.fixture(scope="module")
def expected(tracked: list[str]) -> dict[str, bytes]:
    """Path in the wheel -> content, of every tracked file in the four folders."""
    return {
        name if name.startswith("scalops/") else f"scalops/{name}": (ROOT / name).read_bytes()
        for name in tracked
        if name.startswith(tuple(f"{folder}/" for folder in FOLDERS))
        and not (ROOT / name).is_symlink()
    }


@pytest.fixture(scope="module")
def wheel(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `python -m build` makes, by way of the source archive."""
    copy = tmp_path_factory.mktemp("build") / "scalops"
    for name in tracked:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    run(sys.executable, "-m", "build", "--no-isolation", cwd=copy)
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel's contents and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_wheel_holds_exactly_the_tracked_files(wheel: Path, expected: dict[str, bytes]) -> None:
    assert {f"scalops/{folder}/__init__.py" for folder in LINKED} < expected.keys()
    with zipfile.ZipFile(wheel) as archive:
        entries = [entry for entry in archive.infolist() if ".dist-info/" not in entry.filename]
        assert sorted(entry.filename for entry in entries) == sorted(expected)
        assert {entry.filename: archive.read(entry) for entry in entries} == expected
        assert not [e.filename for e in entries if stat.S_ISLNK(e.external_attr >> 16)]


def test_wheel_from_the_checkout_is_the_same(wheel: Path, tmp_path: Path) -> None:
    build = (sys.executable, "-m", "build", "--no-isolation")
    run(*build, "--wheel", "--outdir", tmp_path, cwd=wheel.parents[1])
    (direct,) = tmp_path.glob("*.whl")
    assert sorted(zipfile.ZipFile(direct).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_wheel_brings_one_package_and_the_command(installed: Path) -> None:
    (info,) = installed.glob("*.dist-info")
    assert {path.name for path in installed.iterdir()} == {"scalops", info.name}
    assert "scalops = scalops.cli:main" in (info / "entry_points.txt").read_text()
    assert (info / "licenses" / "LICENSE").is_file()


def test_script_beside_modules_of_our_names_runs(installed: Path, tmp_path: Path) -> None:
    for name in LINKED:
        (tmp_path / f"{name}.py").write_text("OWNER = 'user'\n")
    (tmp_path / "script.py").write_text(
        "import scalops, scalops.algebra, scalops.optimizer, scalops.engine\n"
        "import algebra, optimizer, engine\n"
        "print(algebra.OWNER, optimizer.OWNER, engine.OWNER, scalops.__file__)\n"
    )
    said = run(sys.executable, "script.py", cwd=tmp_path, path=installed).split()
    assert said == ["user", "user", "user", str(installed / "scalops" / "__init__.py")]


def test_no_module_bears_a_standard_name() -> None:
    names = {
        path.relative_to(ROOT)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix == ".py" or path.is_dir()
    }
    exempt = {"__init__", "__main__", "__pycache__"}
    standard = sys.stdlib_module_names - exempt
    assert not sorted(str(name) for name in names if name.stem in standard)


def test_import_changes_no_environment_variable_and_no_thread_count(tmp_path: Path) -> None:
    code = """
import os
import numpy, pyarrow, scipy.linalg, threadpoolctl  # their own doing is not ours
def seen():
    pools = [(pool["filepath"], pool["num_threads"]) for pool in threadpoolctl.threadpool_info()]
    return dict(os.environ), sorted(pools), pyarrow.cpu_count(), pyarrow.io_thread_count()
before = seen()
import scalops
assert before[1], "no BLAS found: nothing was compared"
assert seen() == before, (before, seen())
"""
    run(sys.executable, "-c", code, cwd=tmp_path)


def test_import_leaves_heavy_modules_alone(tmp_path: Path) -> None:
    code = "import sys, scalops; print(*sys.modules)"
    loaded = set(run(sys.executable, "-c", code, cwd=tmp_path).split())
    assert "scalops" in loaded
    assert not sorted(HEAVY & loaded)
