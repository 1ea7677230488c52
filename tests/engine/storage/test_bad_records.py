"""Records that cannot be read are named, skipped or made null, whatever is wrong with them."""

import gzip
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scalops.algebra.errors import DataError, ScalopsError
from scalops.engine.storage import FileSource, read_csv, read_json, read_libsvm, read_text
from scalops.engine.storage.text_contents import TextContents
from tests.engine.storage.reading import to_table, whole
from tests.quick import quick


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def csv(contents: bytes, **options: Any) -> FileSource:
    Path("a.csv").write_bytes(contents)
    return read_csv("a.csv", **options)


@pytest.mark.parametrize(
    ("line", "null"),
    [
        (b"x,b,1", {"n": None, "s": "b", "f": 1.0}),
        (b"7,b,y", {"n": 7, "s": "b", "f": None}),
        (b"x,b,y", {"n": None, "s": "b", "f": None}),
        (b"7,b", {"n": 7, "s": "b", "f": None}),
        (b"7", {"n": 7, "s": None, "f": None}),
        (b"7,b,1,9", {"n": 7, "s": "b", "f": 1.0}),
        (b"7,\xff,1", {"n": 7, "s": None, "f": 1.0}),
        (b"\xff,\xff", {"n": None, "s": None, "f": None}),
        (b'7,"open,1', {"n": None, "s": None, "f": None}),
        (b"99999999999999999999,b,1", {"n": None, "s": "b", "f": 1.0}),
    ],
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_fields_of_csv_count_from_the_left(line: bytes, null: dict[str, Any], end: bytes) -> None:
    types = {"n": "int64", "s": "string", "f": "float64"}
    contents = end.join([b"n,s,f", b"1,a,0.5", line, b"2,,"])
    first, last = {"n": 1, "s": "a", "f": 0.5}, {"n": 2, "s": "", "f": None}
    for given in (types, {"f": "float64", "n": "int64"}):
        skipped = csv(contents, on_error="skip", column_types=given)
        assert to_table(skipped).to_pylist() == [first, last]
        assert sum(b.rows for p in skipped.partitions() for b in skipped.read(p, ())) == 2
    assert to_table(csv(contents, on_error="null", column_types=types)).to_pylist() == [
        first,
        null,
        last,
    ]
    with pytest.raises(DataError, match=r"a\.csv:3"):
        whole(csv(contents, column_types=types))


def test_bad_head_does_not_prevent_the_types(capfd: pytest.CaptureFixture[str]) -> None:
    contents = b"n,s\n" + b"1\n\xff\xfe\n1,2,3\n" * 50 + b"5,a\n" * 3
    source = csv(contents, on_error="skip")
    assert str(source.schema) == "n: int64, s: string"
    assert to_table(source).to_pylist() == [{"n": 5, "s": "a"}] * 3
    assert capfd.readouterr().err == ""


def test_account_has_count_and_first_in_file_order() -> None:
    lines = [b"%d,1" % i if i % 300 else b"bad" for i in range(90_000)]
    source = csv(b"a,b\n" + b"\n".join(lines), on_error="skip")
    assert len(source.partitions()) > 1
    for partition in [*source.partitions()[::-1], *source.partitions()]:
        list(source.read(partition, ("a",)))
    text = source.bad_records()
    assert text is not None
    assert text.startswith("300 records were skipped: ")
    assert [f"a.csv:{line} has 1 field" in text for line in (2, 302, 602)] == [True] * 3
    assert text.endswith(" and 297 more")
    assert source.bad_records() is None
    whole(source)
    source.forget_bad_records()
    assert source.bad_records() is None
    assert pickle.loads(pickle.dumps(source)).bad_records() is None


READERS: list[tuple[str, bytes, Callable[..., FileSource]]] = [
    ("a.csv", b'a,b,c\n1,"x",2.5\n2,y,\n' * 30, read_csv),
    ("a.json", '{"a":1,"b":[1,2],"s":"é"}\n{"a":2.5,"s":null}\n'.encode() * 30, read_json),
    ("a.svm", b"+1 1:0.5 3:1e-3\n-1 2:.5 # x\n" * 30, read_libsvm),
    ("a.txt", "é and more\n".encode() * 60, read_text),
    ("b.txt.gz", gzip.compress("é and more\n".encode() * 60), read_text),
]


@pytest.mark.parametrize("on_error", ["raise", "skip", "null"])
@pytest.mark.parametrize(("name", "contents", "read"), READERS, ids=lambda v: str(v)[:8])
@pytest.mark.parametrize("seed", quick(range(4), 1))
def test_random_damage_never_shows_an_error_that_is_not_ours(
    seed: int, name: str, contents: bytes, read: Callable[..., FileSource], on_error: str
) -> None:
    rng = np.random.default_rng(seed)
    passed = 0
    for _ in range(12):
        data = bytearray(contents)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(256)
        Path(name).write_bytes(data[: rng.integers(len(data))] if rng.random() < 0.1 else data)
        try:
            source = read(name, on_error=on_error)
            assert whole(source).rows == sum(
                b.rows for p in source.partitions() for b in source.read(p, ())
            )
            passed += 1
        except ScalopsError:
            pass
    if on_error != "raise" and not name.endswith(".gz"):
        assert passed >= 9


FIELDS = (
    "1", "-2", "", " 3", "+4", "0x1F", "1.5", "1e3", ".5", "5.", "nan", "-inf", "NULL", "n/a", "x",
    "12345678901234567890", "300", "é", '"6"', "7 7", "-", "1_0", "true", "2020-01-01", "\t8",
)  # fmt: skip


@pytest.mark.parametrize("seed", quick(range(20), 1))
@pytest.mark.parametrize("on_error", ["skip", "null"])
def test_lines_told_by_their_form_are_those_that_the_parser_tells(
    seed: int, on_error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    rows = [",".join(rng.choice(FIELDS, rng.choice([4, 4, 4, 4, 3, 5]))) for _ in range(150)]
    contents = "\n".join(["a,b,c,d", *rows, ""]).encode()
    types = {"a": "int8", "b": "float64", "c": "string", "d": "uint64"}

    def read() -> tuple[list[Any], str | None]:
        source = csv(contents, column_types=types, on_error=on_error)
        return to_table(source).to_pylist(), source.bad_records()

    told = read()
    monkeypatch.setattr(TextContents, "_sifted", lambda *_: None)
    assert str(told) == str(read())


GOOD = (
    "1,2.5,a",
    '2,,"b, c"',
    '3,4,"say ""x"""',
    '4,1e3,5"',
    "-5,0,",
    '"6","7.5",a"b"',
    '7,8,"a"b"c',
)
BAD = (
    '1,2,"a', 'x"', '"', '1,"2,b', "1,2", "1,2,c,d", "x,1,c", "1,y,c", '1,2,""c"d,"', '1,2,c"d,"e',
    '"1,2,c', '1,2,"a""', ',,"', "1,2,\xff",
)  # fmt: skip


def fields_of(line: str) -> list[str] | None:
    """The fields of one line, told letter by letter; None where a quoted one has no end."""
    fields, inside, fresh, at = [""], False, True, 0
    while at < len(line):
        letter = line[at]
        if inside and line[at : at + 2] == '""':
            fields[-1] += '"'
            at += 1
        elif inside and letter == '"':
            inside = False
        elif fresh and letter == '"':
            inside, fresh = True, False
        elif not inside and letter == ",":
            fields.append("")
            fresh = True
        else:
            fields[-1] += letter
            fresh = False
        at += 1
    return None if inside else fields


def record_of(line: str) -> tuple[dict[str, Any], bool]:
    """The record of a line by itself, with null in what cannot be read, and whether it is bad."""
    fields = fields_of(line)
    if fields is None:
        return dict.fromkeys("nfs"), True
    found: dict[str, Any] = dict.fromkeys("nfs")
    bad = len(fields) != 3
    for name, kind, text in zip("nfs", (int, float, str), fields, strict=False):
        try:
            empty = not text and kind is not str
            found[name] = None if empty or "\xff" in text else kind(text)
            bad = bad or "\xff" in text
        except ValueError:
            bad = True
    return found, bad


@pytest.mark.parametrize("seed", quick(range(100), 8))
def test_each_line_is_judged_by_itself(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lines = [GOOD[i] for i in rng.integers(0, len(GOOD), rng.integers(1, 120))]
    for _ in range(rng.integers(1, 6)):
        place = int(rng.integers(len(lines) + 1))
        lines[place:place] = rng.choice(BAD, rng.integers(1, 4)).tolist()
    contents = ("\n".join(["n,f,s", *lines]) + "\n" * int(rng.integers(2))).encode("latin-1")
    types = {"n": "int64", "f": "float64", "s": "string"}
    wanted = [record_of(line) for line in lines]
    numbers = [i for i, (_, bad) in enumerate(wanted, 2) if bad]
    for mode, records in (("skip", [r for r, bad in wanted if not bad]), ("null", wanted)):
        source = csv(contents, column_types=types, on_error=mode)
        source.forget_bad_records()
        rows = [r[0] if isinstance(r, tuple) else r for r in records]
        assert to_table(source).to_pylist() == rows
        text = source.bad_records()
        assert text is not None
        assert text.startswith(f"{len(numbers)} record")
        assert re.findall(r"a\.csv:(\d+)", text) == [str(n) for n in numbers[:3]]
    with pytest.raises(DataError, match=rf"a\.csv:{numbers[0]}\b"):
        whole(csv(contents, column_types=types))


@pytest.mark.parametrize("bad", ['1,2,"a\nx"', '1,2,"a'])
def test_quoted_line_break_in_the_head_does_not_blame_a_good_line(bad: str) -> None:
    good = [f"{i},{i / 2},n{i}" for i in range(60)]
    for place in range(60):
        lines = [*good[:place], bad, *good[place:]]
        source = csv("\n".join(["n,f,s", *lines]).encode(), on_error="skip")
        assert to_table(source).column("s").to_pylist() == [f"n{i}" for i in range(60)]
        assert f"a.csv:{place + 2}: a quoted value goes on" in str(source.bad_records())
