"""Key pairs of the cluster's CURVE connections, and who is let in.

A folder of keys holds

    alice.secret                 her pair, mode 0600, with the broker's public key
    authorized/alice.driver      her public key: a driver's
    authorized/host7.worker      a worker's

Files are TOML of three or four lines. Whose file in `authorized/` is removed is let in no more; a
broker that runs notices.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
from zmq.utils import z85

from scalops.algebra.errors import ConfigError, SecurityError

ROLES = ("driver", "worker")
BROKER = "broker"
SECRET = ".secret"
AUTHORIZED = "authorized"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_KEY_BYTES = 40  # of a key as text (Z85)
_MOST_BYTES = 4096  # that a file of keys may have


@dataclass(frozen=True)
class KeyPair:
    """A CURVE key pair as text (Z85), and the public key of the broker it is meant for, or ""."""

    public: bytes
    secret: bytes
    cluster: bytes = b""

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public.decode()!r})"  # the secret is never printed


def new_pair(cluster: bytes = b"") -> KeyPair:
    """A new random key pair."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public, secret, cluster)


def create_keys(folder: Path, name: str, role: str = "driver", cluster: bytes = b"") -> Path:
    """Write a new key pair, and let its public half in; the path of the secret file.

    `cluster` is the broker's public key; by default that of the broker whose keys are in
    `folder`, where there is one. Raises ConfigError where there are keys of this name already.
    """
    require_name(name)
    if role not in (*ROLES, BROKER):
        raise ConfigError(f"role is {role!r}; it is one of {', '.join(ROLES)}")
    private_folder(folder)
    own = folder / (BROKER + SECRET)
    if not cluster and role != BROKER and own.exists():
        cluster = read_secret(own).public
    pair = new_pair(cluster)
    path = folder / (name + SECRET)
    text = f'public = "{pair.public.decode()}"\nsecret = "{pair.secret.decode()}"\n'
    if cluster:
        text += f'cluster = "{cluster.decode()}"\n'
    write_private(path, f"# Secret key of {name} ({role}): give it to nobody.\n{text}")
    if role != BROKER:
        authorize(folder, name, role, pair.public)
    return path


def authorize(folder: Path, name: str, role: str, public: bytes) -> Path:
    """Let in whoever has the secret half of a public key; the file that says so."""
    require_name(name)
    authorized = folder / AUTHORIZED
    private_folder(authorized)
    path = authorized / f"{name}.{role}"
    write_private(
        path, f'# {name} is let in as long as this file exists.\npublic = "{public.decode()}"\n'
    )
    return path


def require_name(name: str) -> None:
    """Raises ConfigError unless the name can be that of a file, whatever the system."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name for keys",
            hint="use up to 64 letters, digits, '.', '_' and '-', a letter or digit first",
        )


def read_secret(path: Path) -> KeyPair:
    """The key pair of a secret file.

    Raises: ConfigError where the file is missing or is no key; SecurityError where others than
    its owner may read or write it, or where another user owns it.
    """
    found = _read(path, private=True)
    try:
        pair = KeyPair(_key(found["public"]), _key(found["secret"]), b"")
        if found.get("cluster"):
            pair = KeyPair(pair.public, pair.secret, _key(found["cluster"]))
    except (KeyError, ValueError):
        raise _no_key(path) from None
    if zmq.curve_public(pair.secret) != pair.public:
        raise ConfigError(f"{path} holds two halves of different keys", hint=_MAKE)
    return pair


def read_public(path: Path) -> bytes:
    """The public key of a file. Raises ConfigError."""
    try:
        return _key(_read(path, private=False)["public"])
    except (KeyError, ValueError):
        raise _no_key(path) from None


class AuthorizedKeys:
    """Who is let in: the files of `authorized/`, as they are now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / AUTHORIZED
        self._version: Any = None
        self._roles: dict[bytes, str] = {}

    def role(self, public: bytes) -> str | None:
        """driver or worker; None where the key (Z85) is not let in, or in both roles."""
        return self.roles().get(public)

    def roles(self) -> Mapping[bytes, str]:
        """Each key that is let in, with its role; files that hold no key let nobody in."""
        version = self._current()
        if version != self._version:
            self._roles, self._version = self._read_all(version), version
        return self._roles

    def _current(self) -> tuple[tuple[str, int, int, int], ...]:
        """What the folder holds, so that a change of any file shows."""
        found = []
        with suppress(OSError), os.scandir(self.folder) as entries:  # no folder: nobody
            for entry in entries:
                with suppress(OSError):
                    status = entry.stat()
                    found.append((entry.name, status.st_ctime_ns, status.st_size, status.st_ino))
        return tuple(sorted(found))

    def _read_all(self, version: tuple[tuple[str, int, int, int], ...]) -> dict[bytes, str]:
        roles: dict[bytes, str] = {}
        doubtful = set()
        for name, *_ in version:
            role = name.rpartition(".")[2]
            if role not in ROLES:
                continue
            try:
                public = read_public(self.folder / name)
            except (ConfigError, SecurityError):
                continue
            if roles.setdefault(public, role) != role:
                doubtful.add(public)
        return {key: role for key, role in roles.items() if key not in doubtful}


def private_folder(path: Path) -> Path:
    """Make a folder that its owner alone may enter (0700), whatever the umask.

    Raises: SecurityError where it exists and is another's, or others may enter it; ConfigError
    where it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        status = path.lstat()
    except OSError as error:
        raise ConfigError(f"the folder {path} cannot be made: {error.strerror or error}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise SecurityError(f"{path} is no folder of its own", hint="name another folder")
    if status.st_uid != os.geteuid():
        raise SecurityError(f"the folder {path} is another user's", hint="name another folder")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise SecurityError(
            f"others may enter the folder {path} (mode {stat.S_IMODE(status.st_mode):04o})",
            hint=f"chmod 700 {path}",
        )
    if status.st_mode & 0o700 != 0o700:
        raise SecurityError(f"{path} cannot be used by its owner", hint=f"chmod 700 {path}")
    return path


def write_private(path: Path, text: str) -> None:
    """Write a new file that its owner alone may read (0600). Raises ConfigError."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path} exists", hint="keys are never overwritten: remove it") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from None
    with open(file, "w", encoding="ascii") as out:
        os.fchmod(file, 0o600)  # the umask may have taken from it
        out.write(text)


_MAKE = "make a key pair with: scalops keys create NAME"


def _no_key(path: Path) -> ConfigError:
    return ConfigError(f"{path} is no file of keys", hint=_MAKE)


def is_key(text: str) -> bool:
    """Whether a text may be a key (Z85)."""
    try:
        _key(text)
    except ValueError:
        return False
    return True


def _key(value: Any) -> bytes:
    if not isinstance(value, str) or len(value) != _KEY_BYTES:
        raise ValueError("not the length of a key")
    text = value.encode("ascii")
    z85.decode(text)
    return text


def _read(path: Path, *, private: bool) -> dict[str, Any]:
    """The lines of a file; the checks are of the file that is opened, not of its name."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(
            f"the keys {path} cannot be read: {error.strerror or error}", hint=_MAKE
        ) from None
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            raise _no_key(path)
        if private:
            _require_private(path, status)
        data = os.read(file, _MOST_BYTES)
    finally:
        os.close(file)
    try:
        return tomllib.loads(data.decode("ascii"))
    except (ValueError, RecursionError):
        raise _no_key(path) from None


def _require_private(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise SecurityError(
            f"others may use the secret key {path} (mode {mode:04o}; expected 0600)",
            hint=f"chmod 600 {path}, and make a new key if others may have read it",
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise SecurityError(f"the secret key {path} is another user's", hint=_MAKE)
