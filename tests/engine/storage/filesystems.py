"""Filesystems for tests: in memory, over a folder, and one that fails when it is told to."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
from pyarrow import fs
from pyarrow._fs import _MockFileSystem


class Failing(fs.FileSystemHandler):  # type: ignore[misc]  # pyarrow has no types
    """A folder as another filesystem; `fail` is called, and may raise, before bytes are read.

    Without `tells_time` it knows no time of change. What is not needed here is not there.
    """

    def __init__(self, folder: Path, tells_time: bool = True) -> None:
        self._inner = fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem())
        self._tells_time = tells_time
        self.fail: Callable[[], None] = lambda: None

    def get_type_name(self) -> str:
        return "failing"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: Sequence[str]) -> list[fs.FileInfo]:
        return [self._told(info) for info in self._inner.get_file_info(list(paths))]

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        return [self._told(info) for info in self._inner.get_file_info(selector)]

    def _told(self, info: fs.FileInfo) -> fs.FileInfo:
        if self._tells_time:
            return info
        return fs.FileInfo(info.path, info.type, size=info.size)

    def open_input_file(self, path: str) -> pa.NativeFile:
        stream = io.FileIO(Path(self._inner.base_path) / path)
        return pa.PythonFile(_Told(stream, self), mode="r")

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        stream = self._inner.open_output_stream(path, compression=None)
        return pa.PythonFile(_Told(stream, self), mode="w")

    def move(self, source: str, target: str) -> None:
        self._inner.move(source, target)

    def delete_file(self, path: str) -> None:
        self._inner.delete_file(path)

    def delete_dir(self, path: str) -> None:
        self._inner.delete_dir(path)

    def create_dir(self, path: str, recursive: bool) -> None:
        self._inner.create_dir(path, recursive=recursive)

    def _other(self, *_: Any) -> Any:
        raise NotImplementedError

    copy_file = delete_dir_contents = delete_root_dir_contents = _other
    open_append_stream = open_input_stream = _other


class _Told:
    """A stream of which each read and write may fail."""

    def __init__(self, stream: Any, handler: Failing) -> None:
        self._stream, self._handler = stream, handler

    def read(self, size: int = -1) -> bytes:
        self._handler.fail()
        found: bytes = self._stream.read(size)
        return found

    def write(self, data: Any) -> int:
        self._handler.fail()
        return int(self._stream.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def failing(folder: Path, tells_time: bool = True) -> tuple[fs.PyFileSystem, Failing]:
    """The folder as a filesystem, and what tells it to fail."""
    handler = Failing(folder, tells_time)
    return fs.PyFileSystem(handler), handler


def memory_of(folder: Path) -> Any:
    """The files of a folder in fsspec's memory, below /data."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    for path in folder.rglob("*"):
        if path.is_file():
            memory.pipe(f"/data/{path.relative_to(folder)}", path.read_bytes())
    return memory


def mock_of(folder: Path) -> Any:
    """The files of a folder in Arrow's own memory, below data."""
    mock = _MockFileSystem()
    for path in folder.rglob("*"):
        if path.is_file():
            inner = f"data/{path.relative_to(folder)}"
            mock.create_dir(inner.rpartition("/")[0])
            with mock.open_output_stream(inner, compression=None) as stream:
                stream.write(path.read_bytes())
    return mock


# How a test names the files of a folder: by a URI or path of this beginning, in a filesystem.
Place = tuple[str, Any]

PLACES: dict[str, Callable[[Path], Place]] = {
    "file URI": lambda folder: (folder.as_uri(), None),
    "local": lambda folder: (str(folder), fs.LocalFileSystem()),
    "subtree": lambda folder: (folder.name, _subtree(folder.parent, fs.LocalFileSystem())),
    "fsspec local": lambda folder: (str(folder), fsspec.filesystem("file")),
    "memory URI": lambda folder: (_in_memory(folder), None),
    "memory": lambda folder: ("data", memory_of(folder)),
    "memory subtree": lambda folder: (
        "data",
        _subtree("/", fs.PyFileSystem(fs.FSSpecHandler(memory_of(folder)))),
    ),
    "mock": lambda folder: ("data", mock_of(folder)),
    "handler": lambda folder: (folder.name, failing(folder.parent)[0]),
    "no times": lambda folder: (folder.name, failing(folder.parent, tells_time=False)[0]),
}


def _in_memory(folder: Path) -> str:
    memory_of(folder)
    return "memory://data"


def _subtree(base: str | Path, whole: fs.FileSystem) -> fs.FileSystem:
    return fs.SubTreeFileSystem(str(base), whole)
