"""The commands of clusters: `scalops cluster`, `scalops worker`, `scalops keys`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from scalops.cli.failures import own_command

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)
_START_SECONDS = 30.0


@click.group(short_help="Start, show and stop a cluster.")
def cluster() -> None:
    """Start, show and stop a cluster: a broker, and workers that serve one driver after another."""


@cluster.command(short_help="Start a cluster.")
@click.option(
    "--workers",
    type=click.IntRange(0, 1024),
    default=None,
    help="Worker processes of this host.  [default: one per usable core]",
)
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads of each.  [default: 1]")
@click.option(
    "--bind",
    metavar="tcp://HOST:PORT",
    help="Serve other hosts too, with keys. PORT may be *.  [default: this host and user alone]",
)
@click.option("--data-host", metavar="ADDRESS", help="Where other hosts reach these workers.")
@click.option("--folder", type=_FOLDER, help="Keys, log, sockets: a folder of mode 0700.")
@click.option("--foreground", is_flag=True, help="Stay, until Ctrl-C.")
def start(
    workers: int | None,
    threads: int | None,
    bind: str | None,
    data_host: str | None,
    folder: Path | None,
    foreground: bool,
) -> None:
    """Start a cluster on this host, and print where drivers and workers find it."""
    with own_command():
        from scalops.algebra.errors import ConfigError
        from scalops.engine.cluster import broker

        if bind is not None and not bind.startswith("tcp://"):
            raise ConfigError(
                f"--bind: {bind!r} is no address of a cluster that serves other hosts",
                hint="write tcp://HOST:PORT; PORT may be *",
            )
        settings = broker.BrokerSettings(
            folder=(folder or broker.default_folder(bind)).absolute(),
            bind=bind,
            workers=len(os.sched_getaffinity(0)) if workers is None else workers,
            data_host=data_host or _host_of(bind),
            worker={"threads": threads or 1},
        )
        if foreground:
            broker.prepare(settings)
            broker.serve(settings)
            return
        found = broker.start(settings)
        _wait_for_workers(found, settings)
    click.echo(f"cluster  {found['uri']}, {_count(settings.workers, 'worker')}")
    key = _driver_key(settings.folder) if bind else None
    shown = f'"{found["uri"]}"' + (f', key="{key}"' if key else "")
    click.echo(f"drivers  so.session({shown})")
    if bind:
        click.echo(f"workers  scalops worker --connect {found['uri']} --key FILE")
    click.echo(f"folder   {settings.folder}")


@cluster.command(short_help="Show a cluster's workers.")
@click.option("--folder", type=_FOLDER, help="Of a cluster of this host.")
@click.option("--connect", metavar="URI", help="Of a cluster elsewhere.")
@click.option("--key", type=_FILE, help="A driver's key, for a cluster over TCP.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def status(folder: Path | None, connect: str | None, key: Path | None, as_json: bool) -> None:
    """Show a cluster's workers: host, partitions and bytes held, when each was last heard."""
    with own_command():
        from scalops.engine.cluster import broker_client

        uri = connect
        if uri is None:
            found, place = _running(folder)
            uri = found["uri"]
            if key is None and uri.startswith("tcp://"):
                key = _driver_key(place)
        rows = broker_client.rows(uri, None if key is None else str(key))
    if as_json:
        click.echo(json.dumps({"cluster": uri, "workers": rows}))
        return
    click.echo(f"{uri}, {_count(len(rows), 'worker')}")
    for line in _table(rows):
        click.echo(line)


@cluster.command(short_help="Stop a cluster of this host.")
@click.option("--folder", type=_FOLDER, help="Of the cluster.")
def stop(folder: Path | None) -> None:
    """Stop the cluster that runs on this host: its workers end, drivers are told."""
    with own_command():
        from scalops.engine.cluster import broker

        found, place = _running(folder)
        broker.stop(place)
    click.echo(f"stopped {found['uri']}")


@click.command(short_help="Lend this host's processor to a cluster.")
@click.option("--connect", metavar="URI", required=True, help="The cluster's broker.")
@click.option("--key", type=_FILE, help="A worker's secret key; needed over TCP.")
@click.option("--workers", type=click.IntRange(1, 1024), default=1, show_default=True)
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True)
@click.option(
    "--data-host",
    metavar="ADDRESS",
    help="Of this host, where other workers reach it.  [default: as the broker sees it]",
)
def worker(
    connect: str, key: Path | None, workers: int, threads: int, data_host: str | None
) -> None:
    """Run workers of a cluster on this host, until Ctrl-C, SIGTERM or the cluster's end."""
    with own_command():
        from scalops.engine.cluster.supervisor import WorkerSettings
        from scalops.engine.cluster.worker_daemon import address_towards, run_workers

        host = data_host or address_towards(connect)
        settings = WorkerSettings(
            broker=connect,
            key=None if key is None else str(key.absolute()),
            data=f"tcp://{host}:*" if connect.startswith("tcp://") else "ipc",
            worker={"threads": threads},
        )
        run_workers(workers, settings, click.echo)


@click.group(short_help="Make keys for clusters over TCP.")
def keys() -> None:
    """Make keys for clusters over TCP."""


@keys.command(short_help="Make a key pair.")
@click.argument("name")
@click.option("--folder", type=_FOLDER, help="Of the cluster's keys.  [default: the cluster's]")
@click.option(
    "--role",
    type=click.Choice(("driver", "worker")),
    default="driver",
    show_default=True,
    help="What its holder may do.",
)
@click.option("--cluster", "public", metavar="KEY", help="The broker's public key.")
def create(name: str, folder: Path | None, role: str, public: str | None) -> None:
    """Make a key pair NAME, and let it in: NAME.secret is its holder's, and nobody else's.

    The file authorized/NAME.ROLE lets it in. Removed, its holder is let in no more.
    """
    with own_command():
        from scalops.algebra.errors import ConfigError
        from scalops.engine.cluster import broker
        from scalops.engine.cluster import keys as made

        place = (folder or broker.default_folder("tcp")).absolute()
        if public is not None and not made.is_key(public):
            raise ConfigError(f"--cluster is {public!r}; a public key has 40 characters")
        path = made.create_keys(place, name, role, (public or "").encode("ascii"))
    click.echo(f"secret key     {path}")
    click.echo(f"it is let in   {place / made.AUTHORIZED / f'{name}.{role}'}")
    if not made.read_secret(path).cluster:
        click.echo(
            "it lacks the line `cluster`, the broker's public key: --cluster KEY gives it", err=True
        )


def _running(folder: Path | None) -> tuple[Mapping[str, Any], Path]:
    """The cluster of a folder, by default of either place that has one by itself."""
    from scalops.algebra.errors import ConfigError
    from scalops.engine.cluster import broker

    places = [folder] if folder else [broker.default_folder(None), broker.default_folder("tcp")]
    for place in places:
        found = broker.running(place.absolute())
        if found is not None:
            return found, place.absolute()
    shown = " or ".join(map(str, places))
    raise ConfigError(f"no cluster runs in {shown}", hint="scalops cluster start makes one")


def _wait_for_workers(found: Mapping[str, Any], settings: Any) -> None:
    """Until the workers of this host are there, or it is clear that they will not be soon."""
    from time import monotonic, sleep

    from scalops.engine.cluster import broker_client

    key = str(_driver_key(settings.folder)) if settings.bind else None
    until = monotonic() + _START_SECONDS
    while len(broker_client.rows(found["uri"], key)) < settings.workers:
        if monotonic() >= until:
            click.echo(f"not all workers are there yet; see {settings.folder}", err=True)
            return
        sleep(0.1)


def _driver_key(folder: Path) -> Path:
    from scalops.engine.cluster import broker
    from scalops.engine.cluster.keys import SECRET

    return folder / (broker.DRIVER + SECRET)


def _host_of(bind: str | None) -> str:
    """The address at which others reach this host: the one that is served, if it is one."""
    host = "" if bind is None else bind.removeprefix("tcp://").rpartition(":")[0]
    if host not in ("", "*", "0.0.0.0", "[::]"):
        return host
    from scalops.engine.cluster.worker_daemon import address_towards

    return address_towards("tcp://192.0.2.1:9")  # of no host: the way to all others


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows as lines, columns aligned."""
    cells = [("worker", "host", "partitions", "cached bytes", "last seen", "serves")]
    cells += [
        (
            str(row["worker"]),
            str(row["host"]),
            f"{row['partitions']:,}",
            f"{row['cached_bytes']:,}",
            f"{row['last_seen']:.1f} s ago",
            str(row["serves"] or "-"),
        )
        for row in rows
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    numbers = {2, 3, 4}
    return [
        "  ".join(
            text.rjust(width) if i in numbers else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


COMMANDS = (cluster, worker, keys)
