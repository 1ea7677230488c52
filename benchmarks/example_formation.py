"""Forming training examples from relations, beside DuckDB: a join, a filter, a group-by.

    python -m benchmarks.example_formation [--rows N] [--rounds K] [--threads T]

N e-mails (id, words: a list of 1 to 39 word numbers) and a click log of as many records (id,
label, day), both as Arrow tables in memory, in random order of their ids. Examples are the
e-mails with their clicks where label is not 0 and day at least 5; per day they are counted, and
labels and lengths summed. Both results are materialised as Arrow tables.

Goal at 5,000,000 records: at most 2 x DuckDB, which reads tables of its own, and gives the
examples as the same Arrow table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import scalops as so
from benchmarks.measure import interleaved, report

QUERY = """select {columns} from emails e join clicks c on e.id = c.id
    where c.label <> 0 and c.day >= 5 {order}"""
BY_DAY = """select day, count(*) as n, sum(label) as labels, sum(len(words)) as words
    from {source} group by day order by day"""


def relations(rows: int) -> tuple[pa.Table, pa.Table]:
    """The e-mails and the click log."""
    rng = np.random.default_rng(6)
    lengths = rng.integers(1, 40, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    words = np.minimum((1e6 ** rng.random(offsets[-1])).astype(np.int32), 999_999)
    emails = pa.table(
        {
            "id": rng.permutation(rows),
            "words": pa.ListArray.from_arrays(offsets, pa.array(words)),
        }
    )
    clicks = pa.table(
        {
            "id": rng.permutation(int(1.2 * rows))[:rows],
            "label": rng.choice(np.array([-1, 0, 1], np.int8), rows, p=[0.5, 0.2, 0.3]),
            "day": rng.integers(0, 30, rows).astype(np.int32),
        }
    )
    return emails, clicks


def examples(emails: so.Table, clicks: so.Table) -> so.Table:
    """As a user writes it."""
    chosen = clicks.filter(lambda r: (r.label != 0) & (r.day >= 5))
    return emails.join(chosen, on="id").select("words", "label", "day")


def by_day(table: so.Table) -> so.Table:
    """What is counted and summed."""
    groups = table.group_by("day").agg(
        n=so.count(), labels=so.sum("label"), words=so.sum(lambda r: r.words.list.length())
    )
    return groups.sort("day")


class Ours:
    """Examples and groups in one job, or the examples alone."""

    def __init__(self, emails: pa.Table, clicks: pa.Table, threads: int) -> None:
        self._tables, self._threads = (so.from_arrow(emails), so.from_arrow(clicks)), threads

    def examples(self) -> pa.Table:
        return so.collect(examples(*self._tables), threads=self._threads)

    def both(self) -> tuple[pa.Table, pa.Table]:
        made = examples(*self._tables)
        found: tuple[pa.Table, pa.Table] = so.collect((made, by_day(made)), threads=self._threads)
        return found

    def groups(self) -> pa.Table:
        """The groups alone: the examples need not be there at once."""
        return so.collect(by_day(examples(*self._tables)), threads=self._threads)


class DuckDB:
    """Tables of its own; the examples as an Arrow table."""

    def __init__(self, emails: pa.Table, clicks: pa.Table, threads: int) -> None:
        import duckdb

        self._connection = duckdb.connect(config={"threads": threads})
        self._connection.execute("set preserve_insertion_order = true")
        for name, table in (("emails", emails), ("clicks", clicks)):
            self._connection.register("given", table)
            self._connection.execute(f"create table {name} as select * from given")
            self._connection.unregister("given")

    def examples(self) -> pa.Table:
        query = QUERY.format(columns="e.words, c.label, c.day", order="")
        return self._connection.sql(query).to_arrow_table()

    def both(self) -> tuple[pa.Table, pa.Table]:
        made = self.examples()
        self._connection.register("made", made)
        found = self._connection.sql(BY_DAY.format(source="made")).to_arrow_table()
        self._connection.unregister("made")
        return made, found

    def groups(self) -> pa.Table:
        query = QUERY.format(columns="e.words, c.label, c.day", order="")
        return self._connection.sql(BY_DAY.format(source=f"({query})")).to_arrow_table()


def check(ours: Ours, peer: DuckDB) -> None:
    """Both give the same: the groups, and the examples up to their order."""
    own, theirs = ours.both(), peer.both()
    for name in ("day", "n", "labels", "words"):
        assert np.array_equal(own[1][name].to_numpy(), theirs[1][name].to_numpy()), name
    for made in (own, theirs):
        assert made[0].num_rows == pc.sum(made[1]["n"]).as_py()
    totals = [pc.sum(pc.list_flatten(m["words"])).as_py() for m in (own[0], theirs[0])]
    assert totals[0] == totals[1]


def timed(call: Callable[[], Any]) -> Callable[[], list[float]]:
    """A round: one call, after one that is not counted the first time."""

    def one() -> list[float]:
        times = [0.0]
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
        return times

    return one


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(argv)
    emails, clicks = relations(given.rows)
    ours = Ours(emails, clicks, given.threads)
    peer = DuckDB(emails, clicks, given.threads)
    check(ours, peer)
    for title in ("examples", "both", "groups"):
        ways = {"scalops": timed(getattr(ours, title)), "DuckDB": timed(getattr(peer, title))}
        shown = {"both": "examples and groups", "groups": "groups alone"}.get(title, title)
        timings = interleaved(ways, given.rounds)
        report(f"{shown}, {given.rows:,} e-mails", timings, "scalops", "DuckDB")


if __name__ == "__main__":
    main()
