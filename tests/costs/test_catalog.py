"""Catalogs of machines: what a file may hold, what is refused, how symbols are scaled."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalops.algebra.errors import ConfigError
from scalops.optimizer.costs.catalog import (
    Catalog,
    MachineType,
    catalog_of,
    links_on,
    machine_type_of,
    read_catalog,
    symbols_on,
)
from scalops.optimizer.costs.closed_form import parts
from scalops.optimizer.costs.machine import Machine
from scalops.optimizer.costs.symbols import Symbols
from scalops.optimizer.costs.trees import Links
from scalops.options import read_option

FILE = """
reference = "large"

[[machine]]
name = "small"
cores = 4
memory = "16GB"
disk = "200MB/s"
network = "10Gbit/s"
price = 0.19

[[machine]]
name = "large"
cores = 16
memory = "128GiB"
disk = 1e9
network = "2.5GB"
speed = 1.5
"""
SMALL = MachineType("small", 4, 16e9, 2e8, 1.25e9, 0.19)
LARGE = MachineType("large", 16, 128 * 2.0**30, 1e9, 2.5e9, None, 1.5)


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "machines.toml"
    path.write_text(FILE)
    assert read_catalog(path) == Catalog((SMALL, LARGE), "large")


def test_the_catalog_of_the_documentation_is_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "cost-model.md").read_text(encoding="utf-8")
    path = tmp_path / "machines.toml"
    path.write_text(text.split("```toml\n")[1].split("```")[0], encoding="utf-8")
    assert [(t.name, t.speed) for t in read_catalog(path)] == [("small", 1.0), ("large", 1.2)]


def test_the_first_type_is_the_reference(tmp_path: Path) -> None:
    assert catalog_of({"machine": [vars(SMALL), {**vars(LARGE), "price": 1}]}).reference == "small"


@pytest.mark.parametrize("text", ["4GB", "512MiB", "123", "1.5TB", "7 kb", "2KiB"])
def test_bytes_are_written_as_in_options(text: str) -> None:
    machine = catalog_of({"machine": [{**vars(SMALL), "memory": text}]})["small"]
    assert machine.memory == read_option("memory", text)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"16GB"', '"16 parsecs"', "memory is '16 parsecs' in catalog '{}', machine 'small'; exp"),
        ('"16GB"', '"16GB/s"', "memory is '16GB/s' in .*; expected bytes, or a text such as"),
        ('"16GB"', '"10Gbit"', "memory is '10Gbit' in .*; expected bytes"),
        ('"200MB/s"', "true", "disk is True in .*; expected bytes per second"),
        ("cores = 4", "cores = 0", "catalog '{}': cores of 'small' is 0.0; expected more than 0"),
        ("cores = 4", "cores = nan", "cores of 'small' is nan; expected more than 0"),
        ("cores = 4", "cores = 1e308", "cores of 'small' is 1e.308; expected a number from 0.001"),
        ('"16GB"', "1e-300", "catalog '{}': memory of 'small' is 1e-300; expected a number from"),
        ("price = 0.19", "price = 1e308", "price of 'small' is 1e.308; expected a number from"),
        ('name = "small"', 'name = "sm\\nall"', r"of a machine is 'sm\\nall'; expected a text"),
        ("cores = 4", "", "catalog '{}', machine 'small' has no cores; expected a number"),
        ("cores = 4", "core = 4", "machine 'small' has an unknown key 'core'; .* did you mean"),
        ("price = 0.19", "price = -1", "price of 'small' is -1.0; expected at least 0"),
        ('name = "small"', "name = 3", "name is 3 in catalog '{}', machine 1; expected a text"),
        ('name = "small"', 'name = "large"', "several machines of the name 'large'"),
        ('"large"\n\n', '"huge"\n\n', r"reference is 'huge'; expected one of \['small', 'large'\]"),
        ("[[machine]]", "[[machines]]", "has an unknown key 'machines'; .*did you mean 'machine'"),
        ("[[machine]]", "[machine", "catalog '{}' is no TOML: .*line"),
    ],
    ids=range(18),
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "c.toml"
    assert old in FILE
    path.write_text(FILE.replace(old, new, 1) if "[[" not in old else FILE.replace(old, new))
    with pytest.raises(ConfigError, match=said.replace("{}", ".*c.toml")):
        read_catalog(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.toml' cannot be read: No such file"):
        read_catalog(tmp_path / "none.toml")


def test_an_empty_catalog_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the catalog has no \[\[machine\]\]"):
        catalog_of({})


SYMBOLS = Symbols(1e8, 1e-6, 4e-6, 5e6, 0.5, 0.1, 0.2, 30)
SCALES = st.floats(0.1, 10)


@given(SCALES, SCALES, SCALES, SCALES, SCALES)
@settings(max_examples=20, deadline=None)
def test_each_part_of_an_iteration_scales_with_its_resource(
    cores: float, memory: float, disk: float, network: float, speed: float
) -> None:
    kind = MachineType(
        "x", 4 * cores, 16e9 * memory, 2e8 * disk, 1.25e9 * network, 1.0, 1.0 * speed
    )
    made = symbols_on(SYMBOLS, SMALL, kind)
    assert made.cache == pytest.approx(SYMBOLS.cache * memory)
    assert (made.level, made.price, made.iterations) == (0.2, 1.0, 30)
    before = parts(Symbols(1e8, 1e-6, 4e-6, 1.0, 0.5, 0.1), 8)
    own = symbols_on(Symbols(1e8, 1e-6, 4e-6, 1.0, 0.5, 0.1), SMALL, kind)
    after = parts(own, 8)
    assert after.map == pytest.approx(before.map / (cores * speed))
    assert after.load == pytest.approx(before.load / disk, rel=1e-6)
    assert after.aggregate == pytest.approx(before.aggregate / network)
    assert after.broadcast == pytest.approx(before.broadcast / network)
    links = links_on(Links(1e-4, 3e-5, 1e9, 3e9), SMALL, kind)
    assert (links.hop, links.message) == (1e-4, 3e-5)
    assert (links.link, links.add) == pytest.approx((1e9 * network, 3e9 * speed))


def test_symbols_stay_on_their_own_type() -> None:
    assert symbols_on(SYMBOLS, LARGE, LARGE) == SYMBOLS


def test_this_machine_may_be_the_reference() -> None:
    here = machine_type_of(Machine.of(2, 8 << 30))
    assert (here.name, here.cores, here.memory, here.disk, here.network, here.price) == (
        "this machine",
        2,
        8 << 30,
        1e9,
        1e9,
        None,
    )
    made = Catalog((SMALL, LARGE), "small").with_reference(here)
    assert made.reference == "this machine"
    assert made["this machine"] is here
    assert [t.name for t in made] == ["this machine", "small", "large"]
