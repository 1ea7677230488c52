"""Where the value of an option comes from: call, `with`, environment, file, default."""

from __future__ import annotations

import logging
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from scalops.algebra.errors import ConfigError, user_location
from scalops.options import AUTO, OPTIONS, Options, read_option, refuse_unknown

log = logging.getLogger("scalops")
FILE = "scalops.toml"
# Sources of what a session is given.
SESSION, COMMAND_LINE = "session", "command line"
_PREFIX = "SCALOPS_"
_warned: set[str] = set()


class Setting(NamedTuple):
    """An option's value, and where it came from."""

    value: Any
    source: str


class Config(Mapping[str, Any]):
    """The options in force, by name; printed, a table that says where each came from.

    Sources are `call`, `session`, `command line`, the name of a variable, the path of a file,
    `default`.
    """

    def __init__(self, settings: Mapping[str, Setting]) -> None:
        self._settings = dict(settings)

    def __getitem__(self, name: str) -> Any:
        return self._settings[name].value

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)

    def source(self, name: str) -> str:
        """Where the value of an option came from."""
        return self._settings[name].source

    def __repr__(self) -> str:
        rows = [("option", "value", "source")]
        rows += [(n, str(s.value), s.source) for n, s in self._settings.items()]
        name, value = (max(len(row[i]) for row in rows) for i in range(2))
        return "\n".join(f"{n:<{name}}  {v:<{value}}  {s}" for n, v, s in rows)

    def for_call(self, call: Mapping[str, Any]) -> Config:
        """These, with options that were given to a call."""
        return Config({**self._settings, **{n: Setting(v, "call") for n, v in call.items()}})

    @property
    def options(self) -> Options:
        """The values alone."""
        return Options(**self)


def given_options(given: Mapping[str, Any], what: str = "a session") -> dict[str, Any]:
    """Options as a call gave them, read. Raises ConfigError."""
    refuse_unknown(given, what)
    return {name: read_option(name, value) for name, value in given.items()}


def configure(given: Mapping[str, Any], source: str = SESSION) -> Config:
    """Each option from the first of: the session, the environment, the file, the defaults.

    `given` holds options of the session, which were read; `source` is whence it has them. Raises
    ConfigError for a variable or a file that cannot be used, also where the session hides what is
    wrong.
    """
    layers = (
        {n: Setting(v, source) for n, v in given.items()},
        _environment(),
        _file(),
        {f.name: Setting(f.default, "default") for f in fields(Options)},
    )
    nearest = {n: next(i for i, layer in enumerate(layers) if n in layer) for n in OPTIONS}
    settings = {n: layers[i][n] for n, i in nearest.items()}
    _settle_place(settings, nearest["workers"], nearest["connect"])
    _check_cluster(settings, source)
    return Config(settings)


def inherited(around: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a session inside another: a place to run that it is told replaces theirs."""
    replaced: set[str] = set()
    if given.get("workers") == AUTO:
        pass  # how many of those there are
    elif "workers" in given:
        replaced = {"connect", "key"}
    elif "connect" in given:
        replaced = {"workers"} if given["connect"] is not None else {"workers", "key"}
    return {n: v for n, v in around.items() if n not in replaced} | dict(given)


def _settle_place(settings: dict[str, Setting], workers_at: int, connect_at: int) -> None:
    """Workers of this machine or a cluster: what is told nearer to the call counts.

    The numbers are those of the layers that tell them.
    """
    workers, connect = settings["workers"], settings["connect"]
    if connect.value is None or workers.value == AUTO:
        return
    if workers_at < connect_at:
        settings["connect"] = settings["key"] = Setting(None, workers.source)
    elif workers.value and connect_at < workers_at:
        settings["workers"] = Setting(0, connect.source)
    elif workers.value:
        told = workers.source
        raise ConfigError(
            f"{written(told, 'workers')} is {workers.value} and {written(told, 'connect')} is"
            f" {connect.value!r} ({told}):"
            " plans run on processes of this machine or on a cluster, not on both",
            location=user_location(),
            hint="leave one of them out; how many workers a cluster has is its own matter, and"
            " workers='auto' uses as many of them as are worth it",
        )


def written(source: str, option: str) -> str:
    """An option as who gives it there has to write it."""
    return f"--{option}" if source == COMMAND_LINE else option


def _call(source: str, uri: str, key: str) -> str:
    """How a cluster is named there, and the file of its key."""
    if source == COMMAND_LINE:
        return f"--connect {uri} --key {key}"
    return f'so.session("{uri}", key="{key}")'


def _check_cluster(settings: Mapping[str, Setting], given: str) -> None:
    """ConfigError where a cluster cannot be asked: no key, or a file that is none.

    `given` is the source of what the session was given.
    """
    (uri, source), key = settings["connect"], settings["key"]
    if uri is None:
        if key.value is not None and key.source == given:
            raise ConfigError(
                f"{written(given, 'key')} is {key.value!r}, and there is no cluster to show it to",
                location=user_location(),
                hint=f"give its URI, too: {_call(given, 'tcp://host:5555', key.value)}",
            )
        return
    if key.value is None:
        if uri.startswith("tcp://"):
            raise ConfigError(
                f"{written(source, 'connect')} is {uri!r} ({source}), over the network, and there"
                " is no key",
                location=user_location(),
                hint=f"{_call(given, uri, 'driver.secret')}: `scalops keys create` writes keys, and"
                " the cluster's administrator has those that it accepts",
            )
    elif not os.path.isfile(key.value):
        raise ConfigError(
            f"{written(key.source, 'key')} is {key.value!r} ({key.source}): there is no such file",
            location=user_location(),
            hint="`scalops keys create` writes keys",
        )


def _environment() -> dict[str, Setting]:
    """Options of SCALOPS_* variables; an empty one counts as not set."""
    known = {f"{_PREFIX}{name.upper()}": name for name in OPTIONS}
    found = {}
    for variable, text in sorted(os.environ.items()):
        if not variable.startswith(_PREFIX) or not text.strip():
            continue
        if variable in known:
            name = known[variable]
            found[name] = Setting(read_option(name, text, variable), variable)
        else:
            _warn_of_misspelling(variable, known)
    return found


def _warn_of_misspelling(variable: str, known: Mapping[str, str]) -> None:
    """Say once that a variable is no option, if its name is close to one that is.

    No error: other programs may have variables of this prefix.
    """
    near = get_close_matches(variable, known, 1, cutoff=0.88)
    if near and variable not in _warned:
        _warned.add(variable)
        log.warning("the variable %s is no option; did you mean %s?", variable, near[0])


def _file() -> dict[str, Setting]:
    """Options of the scalops.toml of the working directory, else of the nearest folder above."""
    try:
        here = Path.cwd()
    except OSError:  # the working directory was deleted
        return {}
    for folder in (here, *here.parents):
        path = folder / FILE
        try:
            status = path.stat()
        except OSError:  # none, or a folder that may not be searched
            continue
        if stat.S_ISREG(status.st_mode):
            return _read_file(path, (status.st_mtime_ns, status.st_size))
    return {}


@lru_cache(maxsize=16)
def _read_file(path: Path, version: tuple[int, int]) -> dict[str, Setting]:
    """The options of a file. Read once for each version of it; an error is not kept."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror or error}", location=user_location()
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not TOML: byte {error.start} is not UTF-8", location=user_location()
        ) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(
            f"{path} is not TOML: {why}",
            location=user_location(),
            hint='write one option on a line, as in memory = "4GB"',
        ) from None
    settings = {}
    for name, value in found.items():
        line = _line_of(name, text)
        place = f"{path}:{line}" if line else str(path)
        if isinstance(value, dict) and name not in OPTIONS:
            raise ConfigError(
                f"{place}: [{name}] is a section; options stand at the top level",
                location=user_location(),
                hint=f"remove the line [{name}]: options have no section",
            )
        refuse_unknown([name], place)
        read = read_option(name, value, where=f" ({place})")
        if name == "key":  # wherever below the file the program runs
            read = str(path.parent / read)
        settings[name] = Setting(read, str(path))
    return settings


def _line_of(name: str, text: str) -> int | None:
    """The line on which a key of the file stands."""
    key = re.compile(rf"""\s*\[*\s*["']?{re.escape(name)}["']?\s*[=.\]]""")
    return next((n for n, row in enumerate(text.splitlines(), 1) if key.match(row)), None)
