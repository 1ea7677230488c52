"""Lines of text are read in byte ranges, each once, and what is no text is named."""

import gzip
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scalops.algebra.errors import DataError, PlanError
from scalops.engine.storage import FileSource, Partition, read_text
from scalops.engine.storage import lines as text_lines
from scalops.engine.storage.files import File
from tests.engine.storage.reading import layout, to_table
from tests.quick import repeated


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def text(contents: bytes | str, name: str = "a.txt", **options: Any) -> FileSource:
    data = contents.encode() if isinstance(contents, str) else contents
    Path(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return read_text(name, **options)


def lines(source: FileSource) -> list[Any]:
    found: list[Any] = to_table(source).column("line").to_pylist()
    return found


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ("", []),
        ("\n", [""]),
        ("a", ["a"]),
        ("a\nb\n", ["a", "b"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("a\n\n\nb", ["a", "", "", "b"]),
        ("\r\n\r\n", ["", ""]),
        ("a\rb\n", ["a\rb"]),
        ("\ufeffa\n", ["a"]),
        ("é\u2028x\x0by\x85\n", ["é\u2028x\x0by\x85"]),
        ("a\0b\n", ["a\0b"]),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_lines_lose_their_ends_alone(contents: str, expected: list[str], name: str) -> None:
    source = text(contents, name)
    assert lines(source) == expected
    assert sum(b.rows for p in source.partitions() for b in source.read(p, ())) == len(expected)
    assert source.head(2, ("line",)).columns["line"].to_pylist() == expected[:2]
    assert str(source.schema) == "line: string"
    assert source.rows is None


@pytest.mark.parametrize(
    ("contents", "line"), [(b"a\n\xff\nb\n", 2), (b"\xc3\n\xa9\n", 1), (b"ok\nok\nx\xe9", 3)]
)
def test_line_that_is_not_utf8_is_named(contents: bytes, line: int) -> None:
    with pytest.raises(DataError, match=rf"a\.txt:{line}: b'.*' is not UTF-8 text; convert"):
        lines(text(contents))


def test_lines_that_are_not_utf8_are_skipped_or_null() -> None:
    contents = b"a\n\xff\n\nb\xe9\nc"
    skipped = text(contents, on_error="skip")
    assert lines(skipped) == ["a", "", "c"]
    assert sum(b.rows for p in skipped.partitions() for b in skipped.read(p, ())) == 3
    assert lines(text(contents, on_error="null")) == ["a", None, "", None, "c"]
    with pytest.raises(PlanError, match='on_error=\'ignore\' must be "raise", "skip" or "null"'):
        text(contents, on_error="ignore")


@repeated(3)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(
    files=st.lists(
        st.lists(st.text(st.sampled_from("abé \r"), max_size=6), max_size=9), max_size=3
    ),
    end=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
    packed=st.booleans(),
    cuts=st.lists(st.integers(0, 200), max_size=6),
)
def test_any_ranges_hold_every_line_once(
    run: int,
    tmp_path: Path,
    files: list[list[str]],
    end: str,
    last: bool,
    packed: bool,
    cuts: list[int],
) -> None:
    expected: list[str] = []
    paths = []
    for index, rows in enumerate([*files, ["end"]]):
        rows = [row.rstrip("\r") for row in rows]
        while not last and rows and not rows[-1]:
            rows = rows[:-1]  # an empty last line without its end is no line
        data = (end.join(rows) + (end if last and rows else "")).encode()
        paths.append(tmp_path / (f"{index}.txt.gz" if packed else f"{index}.txt"))
        paths[-1].write_bytes(gzip.compress(data) if packed else data)
        if data:
            expected += rows
    source = read_text(paths)
    bounds = sorted({0, source.bytes, *(min(cut, source.bytes) for cut in cuts)})
    found: list[str] = []
    for start, stop in pairwise(bounds):
        for block in source.read(Partition(0, start, stop), ("line",)):
            found += block.columns["line"].to_pylist()
    assert found == expected


def test_partitions_are_byte_ranges_and_compressed_files_stay_whole() -> None:
    plain = text("1234567\n" * 100_000, "a.txt")
    bounds = [(p.start, p.stop) for p in plain.partitions()]
    assert len(bounds) == 3
    assert bounds[-1][1] == plain.bytes
    assert sum(sum(rows) for _, rows in layout(plain, ())) == 100_000
    import random

    words = random.Random(0).choices("abcdefghijklmnop\n", k=3_000_000)
    packed = text("".join(words), "b.txt.gz")
    assert packed.bytes > 2 * 256 * 1024
    assert len(packed.partitions()) == 1
    both = read_text(["a.txt", "b.txt.gz", "a.txt"])
    starts = {p.start for p in both.partitions()}
    assert not starts & set(range(plain.bytes + 1, plain.bytes + packed.bytes))
    assert len(lines(both)) == 200_000 + words.count("\n") + (words[-1] != "\n")


def test_long_line_is_one_record() -> None:
    source = text("a\n" + "x" * 3_000_000 + "\nb\n")
    assert [len(line) for line in lines(source)] == [1, 3_000_000, 1]
    assert source.head(1, ("line",)).columns["line"].to_pylist() == ["a"]


def test_head_of_a_compressed_file_reads_little(monkeypatch: pytest.MonkeyPatch) -> None:
    source = text("12345678\n" * 1_000_000, "a.txt.gz")
    read: list[int] = []
    plain = gzip.GzipFile.read

    def counted(self: Any, size: int | None = -1) -> bytes:
        read.append(len(data := plain(self, size)))
        return data

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    assert source.head(5, ("line",)).rows == 5
    assert sum(read) < 100_000


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (gzip.compress(b"a\n" * 9_999)[:30], "cannot be read: Compressed file ended"),
        (b"plain", "cannot be read: Not a gzipped file"),
        (gzip.compress(b"a\n" * 99_999)[:-8] + b"12345678", "cannot be read: "),
        (gzip.compress(b"ab" * 99)[:12] + b"\xff" * 40, "cannot be read: "),
    ],
    # Compressed bytes hold the time: as names they would be others in each process.
    ids=["cut off", "not compressed", "wrong sum", "nonsense"],
)
def test_broken_compressed_file_is_named(contents: bytes, message: str) -> None:
    Path("a.txt.gz").write_bytes(contents)
    with pytest.raises(DataError, match=rf"a\.txt\.gz {message}"):
        lines(read_text("a.txt.gz"))


def test_compressed_file_under_another_name_is_explained() -> None:
    with pytest.raises(DataError, match=r"give it a name that ends in \.gz"):
        lines(text(gzip.compress(b"\xff\xfe" * 99), "a.txt"))


def test_file_that_became_another_is_noticed() -> None:
    for name in ("a.txt", "b.txt.gz"):
        source = text("a\nb\n", name)
        text("a\nb\nc and more\n", name)
        with pytest.raises(DataError, match="changed after the table was made"):
            lines(source)
        with pytest.raises(DataError, match="changed after the table was made"):
            source.check_unchanged()


def test_stamp_is_that_of_the_contents_and_options() -> None:
    source = text("a\n", "a.txt")
    assert text("a\n", "b.txt").stamp == source.stamp
    assert text("b\n", "b.txt").stamp != source.stamp
    assert repr(read_text("a.txt")) == repr(source)
    assert repr(text("b\n", "b.txt")) != repr(source)
    assert text("a\n", "a.txt", on_error="skip").stamp != source.stamp


def test_likely_rows_is_near() -> None:
    for name in ("a.txt", "a.txt.gz"):
        assert text("1234567\n" * 50_000, name).likely_rows > 100
    assert text("1234567\n" * 50_000).likely_rows == pytest.approx(50_000)
    assert text("").likely_rows == 0


def test_long_range_is_read_in_chunks_of_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_lines, "_STREAMED_BYTES", 100)
    texts = [f"{i:03d}" * (1 + 97 * (i % 7 == 3)) for i in range(60)]
    path = tmp_path / "a.txt"
    path.write_bytes("".join(text + "\n" for text in texts).encode()[:-1])
    file = File.at(str(path))
    for start in (0, 1, 150, 700):
        chunks = list(text_lines.chunks_beginning(file, 0, start, file.size))
        assert max(len(data) for _, data in chunks) <= 100 + 295
        begin, whole = text_lines.lines_beginning(file, 0, start, file.size)
        assert chunks[0][0] == begin
        assert b"".join(data for _, data in chunks) == whole
