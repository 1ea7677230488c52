"""Filesystems other than this machine's own: named by a URI or given, through Arrow or fsspec.

A `Store` is one of them. Its errors name the file by a URI without secrets, and say what to do.
"""

from __future__ import annotations

import os
import pickle
import posixpath
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa

from scalops.algebra.errors import DataError, PlanError, ScalopsError, text_of
from scalops.engine.storage.byte_streams import RemoteBytes
from scalops.engine.storage.masking import masked, without_secrets, without_users

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)  # not a drive: two letters
# Arrow's URIs have options behind a "?"; any other one belongs to a pattern.
_OPTIONS = re.compile(r"\?([A-Za-z_]\w*=[^/?]*)$")
_ARROW = ("s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")
_SAME = {"s3a": "s3", "s3n": "s3"}  # Hadoop's schemes for the same store
_NAMES = {"gcs": "gs"}  # the usual schemes of Arrow's type names
BUCKETS = ("s3", "gs", "gcs", "abfs", "abfss")  # whose paths begin with a bucket, not with "/"

_S3_TEXTS = ("region", "scheme", "endpoint_override", "tls_ca_file_path")
_S3_FLAGS = (
    "anonymous",
    "allow_bucket_creation",
    "allow_bucket_deletion",
    "background_writes",
    "force_virtual_addressing",
)
# Google's client goes on for 15 minutes unless it is told otherwise.
_GCS_RETRY_SECONDS = 20

_DENIED = re.compile(
    r"(?i)access.?denied|permission|forbidden|unauthori[sz]ed|credential|invalid.?access"
    r"|signature.?does|\b40[13]\b|anonymous caller"
)
_UNREACHED = re.compile(
    r"(?i)network|connect|resolve host|curl|timed? ?out|unavailable|unreachable|slow.?down"
    r"|temporary failure|\b50[0-9]\b"
)


@dataclass(frozen=True, eq=False, repr=False)
class Store:
    """A filesystem of Arrow's; `prefix` and a path within make a URI to show.

    It goes to workers with a plan, if it can be pickled and does not lie in this process alone.
    """

    filesystem: Any
    prefix: str

    def __repr__(self) -> str:
        return f"Store({self.prefix})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Store):
            return NotImplemented
        return self.prefix == other.prefix and bool(self.filesystem == other.filesystem)

    def __hash__(self) -> int:
        return hash(self.prefix)

    @property
    def is_in_process(self) -> bool:
        """Whether its files lie in the memory of this process alone."""
        own = fsspec_of(self.filesystem)
        while own is not None:
            if "memory" in _protocols(own):
                return True
            own = getattr(own, "fs", None)
        return False

    def __reduce__(self) -> tuple[object, ...]:
        if self.is_in_process:
            raise PlanError(
                f"workers cannot read {self.prefix}, which lies in the memory of this process",
                hint="run without workers, or copy the files to a filesystem that all reach",
            )
        try:
            made = pickle.dumps(self.filesystem)
        except Exception as error:  # whatever another's __reduce__ raises
            raise PlanError(
                f"the filesystem {self.prefix} cannot be sent to the workers: {told(error)}",
                hint="run without workers, or pass a filesystem= that can be pickled",
            ) from error
        return _unpickled, (made, self.prefix)

    def shown(self, path: str) -> str:
        """The URI of a path within, without secrets."""
        return without_secrets(self.prefix + path)

    def name_of(self, path: str) -> str:
        """The URI of a path where there is a file, so that other files have other ones."""
        return without_users(self.prefix + path)

    def infos(self, paths: Sequence[str]) -> list[FileInfo]:
        """What there is at paths within, as it is now. Raises: DataError."""
        with asking(self.shown(paths[0])):
            self._forget(paths)
            found: list[FileInfo] = self.filesystem.get_file_info(list(paths))
            return found

    def info(self, path: str) -> FileInfo:
        """What there is at one path within. Raises: DataError."""
        return self.infos([path])[0]

    def listed(self, folder: str, recursive: bool) -> list[FileInfo]:
        """What is in a folder; nothing if there is no such folder. Raises: DataError."""
        from pyarrow.fs import FileSelector

        with asking(self.shown(folder)):
            self._forget([folder])
            selector = FileSelector(folder, allow_not_found=True, recursive=recursive)
            found: list[FileInfo] = self.filesystem.get_file_info(selector)
            return found

    def _forget(self, paths: Sequence[str]) -> None:
        """fsspec may remember folders that it has listed, but changes have to be noticed."""
        own = fsspec_of(self.filesystem)
        for path in paths if own is not None else ():
            own.invalidate_cache(path)
            own.invalidate_cache(posixpath.dirname(path))

    def time(self, info: FileInfo) -> int | None:
        """When a file was changed, in nanoseconds; None where the filesystem does not tell."""
        if info.mtime_ns is not None:
            told: int = info.mtime_ns
            return told
        own = fsspec_of(self.filesystem)
        if own is None:
            return None
        try:
            return int(own.modified(info.path).timestamp() * 1e9)
        except Exception:  # not all of them know, and each says so in its own way
            return None

    def open_input(self, path: str) -> pa.NativeFile:
        """A file within, to read from anywhere; raises OSError and Arrow's errors alone."""
        if not self.filesystem.type_name.startswith("py::"):
            return self.filesystem.open_input_file(path)
        return pa.PythonFile(self.open_bytes(path), mode="r")

    def open_bytes(self, path: str) -> RemoteBytes:
        """The same as a binary stream of Python's, without a buffer."""
        own = fsspec_of(self.filesystem)
        if own is None:
            return RemoteBytes.opened(lambda: self.filesystem.open_input_file(path))
        return RemoteBytes.opened(lambda: own.open(path, "rb"))


def _unpickled(made: bytes, prefix: str) -> Store:
    return Store(pickle.loads(made), prefix)


def located(path: object, filesystem: Any = None) -> tuple[Store | None, str]:
    """The filesystem of a path, None for the local one, and the path or pattern within it.

    Raises: PlanError for what is no path or filesystem, for unknown schemes and for missing
    packages; DataError for a filesystem that cannot be reached.
    """
    text = _text(path)
    match = _URI.fullmatch(text)
    if filesystem is not None:
        return _given(filesystem, text, match)
    if match is None:
        return None, os.path.expanduser(text)
    scheme, rest = _SAME.get(match[1].lower(), match[1].lower()), match[2]
    if scheme == "file":
        host, slash, local = rest.partition("/")
        if host not in ("", "localhost"):
            raise PlanError(
                f"{without_secrets(text)} is another host's",
                hint="write file:/// for files of this one",
            )
        return None, unquote(slash + local)
    if scheme in _ARROW:
        return _by_arrow(scheme, rest)
    return _by_fsspec(scheme.removeprefix("fsspec+"), rest)


def _text(path: object) -> str:
    if not isinstance(path, (str, os.PathLike)):
        raise PlanError(f"a path is a string or a Path, found {path!r}")
    text = os.fspath(path)
    if not isinstance(text, str):
        raise PlanError(f"a path is a string or a Path, found {path!r}", hint="use os.fsdecode")
    try:
        impossible = b"\0" in os.fsencode(text)
    except UnicodeEncodeError:
        impossible = True
    if impossible:
        raise PlanError(f"{text!r} can be no path: it has a character that no name may have")
    return text


# Filesystems that are given.


def _given(filesystem: Any, text: str, uri: re.Match[str] | None) -> tuple[Store | None, str]:
    from pyarrow import fs

    own = filesystem if _is_fsspec(filesystem) else fsspec_of(filesystem)
    if own is None and not isinstance(filesystem, fs.FileSystem):
        raise PlanError(
            f"filesystem={masked(repr(filesystem))} is no filesystem",
            hint="pass one of pyarrow.fs or of fsspec; of a URI leave filesystem= out",
        )
    if uri is not None and (own is None or uri[1].lower() not in _protocols(own)):
        raise PlanError(
            f"{without_secrets(text)} is a URI; a path within filesystem= has no scheme",
            hint="leave filesystem= out, or write the path within it",
        )
    while own is None and isinstance(filesystem, fs.SubTreeFileSystem):
        text = _below(filesystem.base_path, text)
        filesystem = filesystem.base_fs
        own = fsspec_of(filesystem)
    if own is not None:
        return _wrapped(own, own._strip_protocol(text))
    if isinstance(filesystem, fs.LocalFileSystem):
        return None, text
    kind = _NAMES.get(filesystem.type_name, filesystem.type_name.removeprefix("py::"))
    text = text.rstrip("/") or text[:1]
    return Store(filesystem, f"{kind}://"), text.lstrip("/") if kind in BUCKETS else text


def _below(base: str, path: str) -> str:
    """A path within a part of a filesystem."""
    inner = posixpath.normpath(path.lstrip("/")) if path else "."
    if inner.split("/")[0] == "..":
        raise PlanError(f"{path} leads out of its filesystem, which is the folder {base}")
    return base if inner == "." else f"{base.rstrip('/')}/{inner}"


def _is_fsspec(filesystem: Any) -> bool:
    """Whether it is of fsspec's; who has such an object has imported that."""
    spec = sys.modules.get("fsspec.spec")
    return spec is not None and isinstance(filesystem, spec.AbstractFileSystem)


def fsspec_of(filesystem: Any) -> Any:
    """The filesystem of fsspec's that one of Arrow's stands for; None for any other."""
    from pyarrow import fs

    if not isinstance(filesystem, fs.PyFileSystem):
        return None
    handler = filesystem.handler
    return handler.fs if isinstance(handler, fs.FSSpecHandler) else None


def _protocols(own: Any) -> tuple[str, ...]:
    return (own.protocol,) if isinstance(own.protocol, str) else tuple(own.protocol)


def _wrapped(own: Any, path: str, prefix: str | None = None) -> tuple[Store | None, str]:
    """A filesystem of fsspec's as one of Arrow's; the local one is this machine's."""
    from pyarrow import fs

    kind = _protocols(own)[0]
    if kind in ("file", "local"):
        return None, path
    if prefix is None:
        prefix = "memory:/" if kind == "memory" else f"{kind}://"
        prefix = "" if _URI.match(path) else prefix  # HTTP's paths are URIs
    return Store(fs.PyFileSystem(fs.FSSpecHandler(own)), prefix), path


# Filesystems by URI.


def _by_arrow(scheme: str, rest: str) -> tuple[Store, str]:
    """`rest`: the authority, the path or pattern, Arrow's options."""
    options = _OPTIONS.search(rest)
    rest = rest[: options.start()] if options else rest
    authority, _, path = rest.partition("/")
    query = options[1] if options else ""
    shown = without_secrets(f"{scheme}://{rest}")
    _check_port(authority.rpartition("@")[2], shown, scheme)
    try:
        if scheme == "s3":
            filesystem, root = _s3(authority, query)
        else:
            filesystem, root = _from_uri(scheme, authority, query)
    except ScalopsError:
        raise
    except (ImportError, pa.ArrowNotImplementedError) as error:
        raise _not_built(shown, scheme, error) from error
    except (ValueError, TypeError, KeyError) as error:  # ArrowInvalid is a ValueError
        raise PlanError(f"{shown}: {told(error)}", hint="check the URI and its options") from error
    except Exception as error:
        raise failed(shown, error) from error
    inner = f"{root.rstrip('/')}/{unquote(path)}".rstrip("/")
    if scheme in BUCKETS:
        return Store(filesystem, f"{scheme}://"), inner.lstrip("/")
    return Store(filesystem, without_secrets(f"{scheme}://{authority}")), inner or "/"


def _check_port(host: str, shown: str, scheme: str) -> None:
    """Raise PlanError for what no host or bucket has behind it, before anybody tells of it."""
    _, colon, port = host.partition(":")
    if colon and not host.startswith("[") and (scheme in BUCKETS or not port.isdecimal()):
        shown = shown.replace(f":{port}", ":***", 1)
        raise PlanError(
            f"{shown}: what is behind ':' is no port",
            hint="a user and password are written in front of '@', with %2F for '/' and %40 for"
            " '@'; better give them by the environment or filesystem=",
        )


def _from_uri(scheme: str, authority: str, query: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem

    if scheme in ("gs", "gcs") and "retry_limit_seconds" not in query:
        query += f"{'&' * bool(query)}retry_limit_seconds={_GCS_RETRY_SECONDS}"
    found: tuple[Any, str] = FileSystem.from_uri(
        f"{scheme}://{authority}/{'?' * bool(query)}{query}"
    )
    return found


def _s3(authority: str, query: str) -> tuple[Any, str]:
    """As Arrow does it, but that the endpoint and region of the environment go to workers too."""
    from pyarrow.fs import S3FileSystem, resolve_s3_region

    user, _, bucket = authority.rpartition("@")
    given = dict(pair.split("=", 1) for pair in query.split("&") if pair)
    unknown = [name for name in given if name not in (*_S3_TEXTS, *_S3_FLAGS)]
    if unknown:
        known = ", ".join((*_S3_TEXTS, *_S3_FLAGS))
        raise PlanError(
            f"s3://{bucket} has the option {unknown[0]!r}",
            hint=f"those of the URI are {known}; S3FileSystem as filesystem= has more",
        )
    options: dict[str, Any] = {name: unquote(text) for name, text in given.items()}
    options.update({n: options[n].lower() in ("true", "1") for n in _S3_FLAGS if n in options})
    if user:
        access, _, secret = user.partition(":")
        options.update(access_key=unquote(access), secret_key=unquote(secret))
    endpoint = _first_of("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    if endpoint:
        options.setdefault("endpoint_override", endpoint)
    region = _first_of("AWS_REGION", "AWS_DEFAULT_REGION")
    if region:
        options.setdefault("region", region)
    if "region" not in options and "endpoint_override" not in options:
        options["region"] = resolve_s3_region(bucket)
    return S3FileSystem(**options), bucket


def _first_of(*names: str) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _not_built(shown: str, scheme: str, error: Exception) -> PlanError:
    return PlanError(
        f"{shown}: this build of pyarrow has no {scheme}:// ({told(error)})",
        hint="install a build that has; or pass an fsspec filesystem as filesystem=",
    )


def _by_fsspec(scheme: str, rest: str) -> tuple[Store | None, str]:
    uri = f"{scheme}://{rest}"
    shown = without_secrets(uri)
    if scheme in ("http", "https"):
        shown = shown.partition("?")[0]  # it may hold a signature
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise PlanError(
            f"{shown}: {scheme}:// is read by the package fsspec, which is not installed",
            hint=f"pip install fsspec; without it there are file://, {'://, '.join(_ARROW)}://",
        ) from error
    try:
        own, path = url_to_fs(uri)
    except ImportError as error:
        raise PlanError(
            f"{shown}: a package that {scheme}:// needs is not installed: {told(error)}",
            hint="install it, or pass another filesystem=",
        ) from error
    except ValueError as error:
        raise PlanError(
            f"{shown}: {told(error)}",
            hint=f"known are file://, {'://, '.join(_ARROW)}://, and what fsspec knows",
        ) from error
    except Exception as error:  # whatever its implementations raise
        raise failed(shown, error) from error
    prefix = uri[: -len(path)] if path and uri.endswith(path) else None
    return _wrapped(own, path, None if prefix is None else without_secrets(prefix))


# What goes wrong.


@contextmanager
def asking(shown: str) -> Iterator[None]:
    """Turn whatever a filesystem raises into a DataError that names the file.

    Only around calls of the filesystem.
    """
    try:
        yield
    except ScalopsError:
        raise
    except Exception as error:
        raise failed(shown, error) from error


def failed(shown: str, error: BaseException) -> DataError:
    """The error of a file that a filesystem does not give."""
    match error:
        case FileNotFoundError():
            return DataError(f"{shown} does not exist", hint="check the path and the bucket")
        case PermissionError():
            return DataError(f"{shown} may not be read: {told(error)}", hint=what_to_do(error))
    return DataError(f"{shown} cannot be read: {told(error)}", hint=what_to_do(error))


def told(error: BaseException) -> str:
    """The first line of what an error says, without secrets."""
    lines = text_of(error).strip().splitlines() or [type(error).__name__]
    return masked(lines[0].strip())


def what_to_do(error: BaseException) -> str | None:
    """About an error of a filesystem that is not local; None where nobody knows."""
    text = f"{type(error).__name__} {text_of(error)}"
    if "libjvm" in text or "libhdfs" in text:
        return "hdfs:// needs Java and Hadoop: set JAVA_HOME, HADOOP_HOME and CLASSPATH"
    if _DENIED.search(text):
        return (
            "check the credentials: those of the environment (AWS_ACCESS_KEY_ID, "
            "GOOGLE_APPLICATION_CREDENTIALS, AZURE_CLIENT_ID ...), or of filesystem="
        )
    if isinstance(error, (ConnectionError, TimeoutError)) or _UNREACHED.search(text):
        return "check the network and the endpoint, then run again"
    return None
