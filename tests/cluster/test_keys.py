"""Keys of clusters: who may read them, who is let in."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scalops.algebra.errors import ConfigError, SecurityError
from scalops.engine.cluster import keys
from scalops.engine.cluster.keys import AuthorizedKeys, create_keys, new_pair, read_secret


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_secrets_are_their_owners_alone_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    folder = tmp_path / "cluster"
    with umask(mask):
        path = create_keys(folder, "alice")
    assert (mode(path), mode(folder), mode(folder / keys.AUTHORIZED)) == (0o600, 0o700, 0o700)
    assert mode(folder / keys.AUTHORIZED / "alice.driver") == 0o600


def test_a_pair_is_read_as_it_was_made_with_the_clusters_key(tmp_path: Path) -> None:
    broker = read_secret(create_keys(tmp_path / "c", "broker", "broker"))
    worker = read_secret(create_keys(tmp_path / "c", "w1", "worker"))
    assert worker.cluster == broker.public
    assert broker.cluster == b""
    assert AuthorizedKeys(tmp_path / "c").roles() == {worker.public: "worker"}


def test_a_secret_is_never_printed() -> None:
    pair = new_pair()
    assert pair.secret.decode() not in repr(pair)


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o660, 0o666])
def test_a_secret_that_others_may_use_is_refused(tmp_path: Path, bits: int) -> None:
    path = create_keys(tmp_path / "c", "alice")
    path.chmod(bits)
    with pytest.raises(SecurityError, match=rf"others may use .*{bits:04o}; expected 0600"):
        read_secret(path)


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(SecurityError, match=r"others may enter .* \(mode 0755\)"):
        create_keys(folder, "alice")


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "c").symlink_to(tmp_path / "real")
    with pytest.raises(SecurityError, match="no folder of its own"):
        create_keys(tmp_path / "c", "alice")


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    path = create_keys(tmp_path / "c", "alice")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="exists; keys are never overwritten"):
        create_keys(tmp_path / "c", "alice", "worker")
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 65, "ä", "a\n"])
def test_a_name_is_that_of_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is no name for keys"):
        create_keys(tmp_path / "c", name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "public = 3",
        'public = "short"\nsecret = "short"',
        f'public = "{"~" * 40}"\nsecret = "{"~" * 40}"',
        "a" * 5000,
        "[" * 3000,
        "\xff",
    ],
    ids=["empty", "word", "number", "short", "not-z85", "long", "nested", "bytes"],
)
def test_what_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "k.secret"
    path.write_text(text, encoding="latin-1")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="is no file of keys"):
        read_secret(path)


def test_halves_of_different_keys_are_refused(tmp_path: Path) -> None:
    one, other = new_pair(), new_pair()
    path = tmp_path / "k.secret"
    path.write_text(f'public = "{one.public.decode()}"\nsecret = "{other.secret.decode()}"\n')
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="two halves of different keys"):
        read_secret(path)


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "k.secret"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path, 0o600)
    with pytest.raises(ConfigError, match=r"cannot be read|is no file of keys"):
        read_secret(path)


def test_whose_file_is_removed_is_let_in_no_more(tmp_path: Path) -> None:
    alice = read_secret(create_keys(tmp_path / "c", "alice"))
    bob = read_secret(create_keys(tmp_path / "c", "bob", "worker"))
    known = AuthorizedKeys(tmp_path / "c")
    assert (known.role(alice.public), known.role(bob.public)) == ("driver", "worker")
    (tmp_path / "c" / keys.AUTHORIZED / "alice.driver").unlink()
    assert (known.role(alice.public), known.role(bob.public)) == (None, "worker")
    keys.authorize(tmp_path / "c", "alice2", "driver", alice.public)
    assert known.role(alice.public) == "driver"


def test_files_without_a_key_let_nobody_in(tmp_path: Path) -> None:
    alice = read_secret(create_keys(tmp_path / "c", "alice"))
    folder = tmp_path / "c" / keys.AUTHORIZED
    (folder / "empty.driver").write_text("")
    (folder / "noise.worker").write_bytes(os.urandom(100))
    (folder / "alice.admin").write_text(f'public = "{alice.public.decode()}"')
    (folder / "folder.driver").mkdir()
    assert AuthorizedKeys(tmp_path / "c").roles() == {alice.public: "driver"}


def test_a_key_in_both_roles_has_none(tmp_path: Path) -> None:
    alice = read_secret(create_keys(tmp_path / "c", "alice"))
    keys.authorize(tmp_path / "c", "alice", "worker", alice.public)
    assert AuthorizedKeys(tmp_path / "c").role(alice.public) is None


def test_without_a_folder_nobody_is_let_in(tmp_path: Path) -> None:
    assert AuthorizedKeys(tmp_path / "none").roles() == {}
