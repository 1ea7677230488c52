"""Attacks by files: missing, torn, of another kind, changed between plan and run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import scalops as so
from tests.language.attacks.table import ends_in


def csv(folder: Path, text: str, name: str = "t.csv") -> Path:
    """A text file."""
    path = folder / name
    path.write_text(text)
    return path


def parquet(folder: Path, name: str = "t.parquet", **columns: Any) -> Path:
    """A Parquet file."""
    path = folder / name
    pq.write_table(pa.table(columns or {"a": np.arange(1000.0)}), path)
    return path


@ends_in(so.DataError, r"no file 'missing\.csv'")
def a_csv_that_is_missing(folder: Path) -> Any:
    return so.read_csv(folder / "missing.csv")


@ends_in(so.DataError, r"no file 'missing\.parquet'")
def a_parquet_that_is_missing(folder: Path) -> Any:
    return so.read_parquet(str(folder / "missing.parquet"))


@ends_in(so.DataError, r"no file 'missing\.csv'")
def one_of_a_list_that_is_missing(folder: Path) -> Any:
    return so.read_csv([csv(folder, "a\n1\n"), folder / "missing.csv"])


@ends_in(so.PlanError, r"empty list of paths")
def an_empty_list_of_files(folder: Path) -> Any:
    return so.read_csv([])


@ends_in(so.DataError, r"the folder .* has no file that ends in \.parquet")
def an_empty_folder(folder: Path) -> Any:
    return so.read_parquet(folder)


@ends_in(so.DataError, r"no file matches '\*\.csv'")
def a_glob_that_finds_nothing(folder: Path) -> Any:
    return so.read_csv(f"{folder}/*.csv")


@ends_in(so.PlanError, r"a path is a string or a Path, found 3")
def a_path_that_is_no_path(folder: Path) -> Any:
    return so.read_csv(3)  # type: ignore[arg-type]


@ends_in(so.PlanError, r"can be no path: it has a character that no name may have")
def a_path_with_a_null_byte(folder: Path) -> Any:
    return so.read_csv("a\0b.csv")


@ends_in(so.DataError, r"no file '' in")
def a_path_that_is_empty(folder: Path) -> Any:
    return so.read_csv("")


@ends_in(so.DataError, r"loop\.csv cannot be read: \[Errno 40\] Too many levels of symbolic links:")
def a_link_to_itself(folder: Path) -> Any:
    os.symlink(folder / "loop.csv", folder / "loop.csv")
    return so.read_csv(folder / "loop.csv")


@ends_in(so.DataError, r"cut\.parquet is a Parquet file without its end")
def a_parquet_cut_short(folder: Path) -> Any:
    path = parquet(folder, "cut.parquet")
    path.write_bytes(path.read_bytes()[:-10])
    return so.read_parquet(path)


@ends_in(so.DataError, r"empty\.parquet is not a Parquet file: it has 0 bytes")
def a_parquet_of_no_bytes(folder: Path) -> Any:
    (folder / "empty.parquet").write_bytes(b"")
    return so.read_parquet(folder / "empty.parquet")


@ends_in(so.DataError, r"t\.csv is not a Parquet file: it has 8 bytes")
def a_csv_read_as_parquet(folder: Path) -> Any:
    return so.read_parquet(csv(folder, "a,b\n1,2\n"))


@ends_in(so.DataError, r"t\.parquet is gone since the table was made \(No such file or directory\)")
def a_file_deleted_before_the_run(folder: Path) -> Any:
    path = parquet(folder)
    table = so.read_parquet(path)
    path.unlink()
    return table.sum("a").collect()


@ends_in(so.DataError, r"t\.csv changed after the table was made: 4 bytes then, 12 now")
def a_file_changed_before_the_run(folder: Path) -> Any:
    path = csv(folder, "a\n1\n")
    table = so.read_csv(path)
    path.write_text("a,b\n1,2\n3,4\n")
    return table.sum("a").collect()


@ends_in(so.SchemaError, r"b\.parquet has other columns than a\.parquet: 'a' is missing instead of")
def files_of_two_schemas(folder: Path) -> Any:
    parquet(folder, "a.parquet", a=[1.0])
    parquet(folder, "b.parquet", b=["x"])
    return so.read_parquet(folder).collect()


@ends_in(so.SchemaError, r"b\.parquet has other columns than a\.parquet: 'a' is string instead of")
def files_of_two_types(folder: Path) -> Any:
    parquet(folder, "a.parquet", a=[1.0])
    parquet(folder, "b.parquet", a=["x"])
    return so.read_parquet(folder).collect()


@ends_in(so.DataError, r"no line in t\.csv, so there are no columns")
def a_csv_of_no_bytes(folder: Path) -> Any:
    return so.read_csv(csv(folder, ""))


@ends_in(so.DataError, r"t\.csv:3 has 3 fields, expected 2")
def a_csv_with_a_row_too_long(folder: Path) -> Any:
    return so.read_csv(csv(folder, "a,b\n1,2\n1,2,3\n")).collect()


@ends_in(so.DataError, r"t\.csv:3 has 1 field, expected 2")
def a_csv_with_a_row_too_short(folder: Path) -> Any:
    return so.read_csv(csv(folder, "a,b\n1,2\n1\n")).collect()


@ends_in(so.SchemaError, r"a record has no column 'b'")
def a_csv_by_the_wrong_delimiter(folder: Path) -> Any:
    return so.read_csv(csv(folder, "a;b\n1;2\n")).map(lambda r: r.b)


@ends_in(so.PlanError, r"delimiter='%%' must be one")
def a_delimiter_of_two_characters(folder: Path) -> Any:
    return so.read_csv(csv(folder, "a,b\n1,2\n"), delimiter="%%")


@ends_in(so.DataError, r"t\.csv:2: column 'a' is not UTF-8 text")
def a_csv_of_other_bytes(folder: Path) -> Any:
    (folder / "t.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
    return so.read_csv(folder / "t.csv").collect()


@ends_in(so.DataError, r"t\.csv:2 has 1 field, expected 2")
def a_csv_with_an_open_quote(folder: Path) -> Any:
    return so.read_csv(csv(folder, 'a,b\n"1,2\n3,4\n')).collect()


@ends_in(so.SchemaError, r"t\.csv: its header has the columns \['a'\] twice")
def a_csv_with_a_name_twice(folder: Path) -> Any:
    return so.read_csv(csv(folder, "a,a\n1,2\n"))


@ends_in(so.DataError, r"t\.csv:1 has 2 fields, expected 1")
def a_csv_with_too_few_names(folder: Path) -> Any:
    return so.read_csv(csv(folder, "1,2\n"), column_names=["a"]).collect()


@ends_in(so.SchemaError, r"columns=\['z'\] of t\.parquet, which has \['a'\]")
def a_column_that_no_file_has(folder: Path) -> Any:
    return so.read_parquet(parquet(folder), columns=["z"])


@ends_in(so.SchemaError, r"columns='a' is one string, not a list")
def columns_by_a_word(folder: Path) -> Any:
    return so.read_parquet(parquet(folder), columns="a")


@ends_in(so.DataError, r"t\.csv:1002: column 'a' holds 'oops'")
def a_late_word_among_numbers(folder: Path) -> Any:
    path = csv(folder, "a\n" + "1\n" * 1000 + "oops\n")
    return so.read_csv(path, column_types={"a": so.int64}).sum("a").collect()


@ends_in(so.SchemaError, r"column_types names \['z'\]; t\.csv has \['a'\]")
def a_type_for_a_column_that_is_not_there(folder: Path) -> Any:
    return so.read_csv(csv(folder, "a\n1\n"), column_types={"z": so.int64})


# Other formats, and writing.


@ends_in(so.DataError, r"t\.json:2: b'\{oops' is not JSON")
def a_line_that_is_no_json(folder: Path) -> Any:
    return so.read_json(csv(folder, '{"a": 1}\n{oops\n', "t.json")).collect()


@ends_in(so.DataError, r"t\.svm:1: the index 3 is followed by a lesser one")
def indices_that_descend(folder: Path) -> Any:
    return so.read_libsvm(csv(folder, "1 3:1 2:5\n", "t.svm")).collect()


@ends_in(so.PlanError, r"n_features=-1 must be an int from 0")
def features_below_zero(folder: Path) -> Any:
    return so.read_libsvm(csv(folder, "1 1:1\n", "t.svm"), n_features=-1)


@ends_in(so.DataError, r"t\.txt:1: .* is not UTF-8 text")
def a_text_of_other_bytes(folder: Path) -> Any:
    (folder / "t.txt").write_bytes(b"\xff\xfe\n")
    return so.read_text(folder / "t.txt").collect()


@ends_in(so.PlanError, r"no reader for t\.xyz: '\.xyz' is not known")
def a_suffix_that_nobody_knows(folder: Path) -> Any:
    return so.load(csv(folder, "1\n", "t.xyz"))


@ends_in(so.DataError, r"t\.csv is not an Arrow file")
def a_csv_read_as_arrow(folder: Path) -> Any:
    return so.read_ipc(csv(folder, "a\n1\n"))


@ends_in(so.PlanError, r"on_error='ignore' must be \"raise\", \"skip\" or \"null\"")
def errors_that_are_to_be_ignored(folder: Path) -> Any:
    return so.read_csv(csv(folder, "a\n1\n"), on_error="ignore")


@ends_in(so.SchemaError, r"so\.empty needs at least one column")
def an_empty_table_of_no_columns(_: Path) -> Any:
    return so.empty({})


@ends_in(so.SchemaError, r"the column 'a' has the type 'banana'.*types are so\.float64")
def an_empty_table_of_bananas(_: Path) -> Any:
    return so.empty({"a": "banana"})


@ends_in(so.SchemaError, r"write_csv cannot hold the column 'x' of float64\[2\]")
def a_vector_in_a_csv(folder: Path) -> Any:
    return so.table({"x": np.ones((1, 2))}).write_csv(folder / "out.csv")


@ends_in(so.ExecutionError, r"no/x\.parquet cannot be written: there is no folder no")
def a_folder_that_is_not_there(folder: Path) -> Any:
    return so.table({"a": [1.0]}).write_parquet(folder / "no" / "x.parquet")


@ends_in(so.ExecutionError, r"is a folder, not a file")
def a_folder_for_a_file(folder: Path) -> Any:
    return so.table({"a": [1.0]}).write_json(folder)


@ends_in(so.UserFunctionError, r"ZeroDivisionError")
def a_write_of_what_cannot_be_computed(folder: Path) -> Any:
    failing = so.udf(lambda r: 1 / (r.k - 2), returns=so.float64)
    try:
        return so.table({"k": [1, 2, 3]}).map(failing).write_csv(folder / "out.csv")
    finally:
        assert not list(folder.iterdir())  # not half a file either
