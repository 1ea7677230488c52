"""The broker's state machine: leases, the line of drivers, versions; seeded simulations."""

from __future__ import annotations

import random
from itertools import count
from typing import Any

import pytest

from scalops.engine.cluster.membership import (
    Action,
    End,
    Forget,
    Gone,
    Membership,
    Said,
    Tell,
    Tick,
)
from scalops.engine.cluster.messages import (
    PROTOCOL,
    Attach,
    Attached,
    Bye,
    Detach,
    Heartbeat,
    Hello,
    Left,
    Queued,
    Refused,
    Serve,
    Shutdown,
    Status,
    StatusIs,
    Stop,
    Welcome,
)

VERSIONS = {"numpy": "2.4.0", "BLAS": "openblas 0.3 Haswell"}


class Cluster:
    """A membership with a clock, that remembers what it has told whom."""

    def __init__(self, **settings: Any) -> None:
        numbers = count(1)
        self.machine = Membership("tcp://c", lambda: f"s{next(numbers)}", **settings)
        self.now = 0.0
        self.forgotten: set[str] = set()

    def do(self, event: Any) -> list[Action]:
        actions = self.machine.handle(event, self.now)
        for action in actions:
            assert not (isinstance(action, Tell) and action.peer in self.forgotten)
        self.forgotten |= {a.peer for a in actions if isinstance(a, Forget)}
        return actions

    def say(self, peer: str, body: Any, role: str | None = None) -> list[Action]:
        self.machine.heard(peer, self.now)
        return self.do(Said(peer, b"", role, body))

    def hello(self, worker: str, **changed: Any) -> list[Action]:
        given = {"protocol": PROTOCOL, "versions": VERSIONS, **changed}
        return self.say(worker, Hello(worker, given["protocol"], given["versions"], "h", *_REST))

    def attach(self, driver: str, **changed: Any) -> list[Action]:
        given = {"protocol": PROTOCOL, "versions": VERSIONS, **changed}
        return self.say(driver, Attach(driver, given["protocol"], given["versions"], "h", 7))

    def wait(self, seconds: float, *alive: str) -> list[Action]:
        """Let time pass, in steps, while these are heard."""
        actions = []
        for _ in range(round(seconds)):
            self.now += 1.0
            for peer in alive:
                self.machine.heard(peer, self.now)
            actions += self.do(Tick())
        return actions


_REST = (1, 1, 1, "tcp://h:1", b"", 1)


def test_a_worker_is_welcome_and_serves_the_driver_that_comes() -> None:
    cluster = Cluster()
    assert cluster.hello("w") == [Tell("w", Welcome("", 10.0, {}))]
    told = cluster.attach("d")
    assert told == [Tell("d", Attached("s1", ({"worker": "w"},))), Tell("w", Serve("s1", "d"))]
    assert cluster.hello("w2")[1:] == [Tell("w2", Serve("s1", "d"))]


def test_frames_pass_between_a_driver_and_its_workers_alone() -> None:
    cluster = Cluster()
    cluster.hello("w")
    assert cluster.machine.route("w", "s1") is None
    cluster.attach("d")
    cluster.attach("d2")
    route = cluster.machine.route
    assert route("d", "w") == ("w", "s1")
    assert route("w", "s1") == ("d", "w")
    assert [route(*p) for p in (("d2", "w"), ("w", "d"), ("w", "w"), ("d", "d2"), ("x", "w"))] == (
        [None] * 5
    )


def test_a_second_driver_waits_and_is_told_who_is_served() -> None:
    cluster = Cluster()
    cluster.hello("w")
    cluster.attach("d1")
    assert cluster.attach("d2") == [Tell("d2", Queued(1, "d1 (process 7 on h)"))]
    assert cluster.attach("d3") == [Tell("d3", Queued(2, "d1 (process 7 on h)"))]
    assert cluster.attach("d3") == []
    ended = cluster.say("d1", Detach("s1", ""))
    assert ended[:3] == [
        Forget("d1"),
        Tell("w", Detach("s1", "the driver is gone: its driver left")),
        Forget("w"),
    ]
    assert ended[3:] == [Tell("d2", Queued(1, "")), Tell("d3", Queued(2, ""))]
    assert cluster.hello("fresh")[1:] == [
        Tell("d2", Attached("s2", ({"worker": "fresh"},))),
        Tell("fresh", Serve("s2", "d2")),
        Tell("d3", Queued(1, "d2 (process 7 on h)")),
    ]


def test_the_next_turn_does_not_wait_for_fresh_workers_for_ever() -> None:
    cluster = Cluster(turnover=5.0)
    cluster.hello("w")
    cluster.attach("d1")
    cluster.attach("d2")
    cluster.say("d1", Detach("s1", ""))
    assert Tell("d2", Attached("s2", ())) in cluster.wait(6, "d2")


def test_who_leaves_the_line_makes_room() -> None:
    cluster = Cluster()
    for driver in ("d1", "d2", "d3"):
        cluster.attach(driver)
    told = cluster.say("d2", Detach("", ""))
    assert told == [Forget("d2"), Tell("d3", Queued(1, "d1 (process 7 on h)"))]


def test_a_silent_worker_is_lost_and_never_let_in_again() -> None:
    cluster = Cluster()
    cluster.hello("w")
    cluster.hello("w2")
    cluster.attach("d")
    told = cluster.wait(14, "d", "w2")
    assert [type(a) for a in told] == [Forget, Tell]
    assert isinstance(told[1], Tell)
    assert told[1] == Tell("d", Left("w", "it was silent for 10 s"))
    assert cluster.hello("w") == []
    assert cluster.machine.lost("w") == "it was silent for 10 s"
    assert cluster.machine.route("d", "w") is None


def test_a_driver_is_not_given_workers_that_are_about_to_be_lost() -> None:
    cluster = Cluster()
    cluster.hello("w")
    cluster.wait(9)
    cluster.attach("d")
    assert cluster.wait(9, "d") == []
    assert Tell("d", Left("w", "it was silent for 10 s")) in cluster.wait(2, "d")


def test_whoever_sees_a_workers_process_says_when_it_is_lost() -> None:
    cluster = Cluster()
    cluster.machine.is_watched = lambda peer: peer == "w"
    cluster.hello("w")
    assert cluster.wait(14) == []
    assert cluster.machine.silent == {"w": 13.0}
    cluster.machine.heard("w", cluster.now)
    assert cluster.machine.silent == {}


def test_a_silent_driver_ends_its_session() -> None:
    cluster = Cluster()
    cluster.hello("w")
    cluster.attach("d")
    told = cluster.wait(14, "w")
    assert told[0] == Forget("d")
    assert isinstance(told[1], Tell)
    assert isinstance(told[1].body, Detach)


def test_a_broker_that_was_stopped_blames_nobody() -> None:
    cluster = Cluster()
    cluster.hello("w")
    cluster.do(Tick())
    cluster.now += 3600.0
    assert cluster.do(Tick()) == []


def test_the_end_of_a_worker_is_told_at_once() -> None:
    cluster = Cluster()
    cluster.hello("w")
    cluster.attach("d")
    reason = "killed by signal 9 (SIGKILL)"
    told = cluster.do(Gone("w", reason, replaced=True))
    assert told == [Forget("w"), Tell("d", Left("w", reason, replaced=True))]
    assert cluster.do(Gone("w", "again")) == []


def test_a_worker_with_other_versions_is_refused_by_name() -> None:
    cluster = Cluster()
    cluster.hello("w", versions={**VERSIONS, "numpy": "2.3.1"})
    cluster.hello("good")
    attached, left, serve = cluster.attach("d")
    assert attached == Tell("d", Attached("s1", ({"worker": "good"},)))
    assert isinstance(left, Tell)
    assert left.body.worker == "w"
    assert "numpy 2.4.0 on the driver, 2.3.1 on the worker" in left.body.reason
    assert serve == Tell("good", Serve("s1", "d"))


@pytest.mark.parametrize("who", ["hello", "attach"])
def test_another_protocol_is_refused_with_both_sides(who: str) -> None:
    told, forget = getattr(Cluster(), who)("x", protocol=PROTOCOL + 1)
    assert isinstance(told.body, Refused)
    assert f"x speaks protocol {PROTOCOL + 1}, the cluster tcp://c protocol" in told.body.reason
    assert forget == Forget("x")


def test_status_has_a_row_for_each_worker() -> None:
    cluster = Cluster()
    cluster.hello("w")
    cluster.attach("d")
    cluster.say("w", Heartbeat("w", 1, 1, -1, 4096, 3))
    cluster.now += 2.5
    (told,) = cluster.say("asks", Status())
    row = {"worker": "w", "host": "h", "partitions": 3, "cached_bytes": 4096}
    since = {"last_seen": 2.5, "serves": "d (process 7 on h)"}
    assert told == Tell("asks", StatusIs(({**row, **since},)))


def test_stop_tells_everybody() -> None:
    cluster = Cluster()
    cluster.hello("w")
    cluster.attach("d")
    why = "the cluster was stopped"
    told = cluster.say("asks", Stop())
    assert told == [Tell("w", Shutdown(why)), Tell("d", Refused(why)), End(why)]


@pytest.mark.parametrize("block", range(10))
def test_simulated_clusters_keep_their_promises(block: int) -> None:
    for seed in range(block * 20, block * 20 + 20):
        _simulate(random.Random(seed))


def _simulate(chance: random.Random) -> None:
    """Random events; one driver at a time, in the order of arrival, with workers of its own."""
    cluster, names = Cluster(turnover=4.0), count()
    live: list[str] = []
    line: list[str] = []  # drivers, as they came
    serving: dict[str, str] = {}  # worker -> session
    served: str | None = None
    for _ in range(120):
        peer = chance.choice(live) if live else ""
        match chance.choice("hhaadgbtttx"):
            case "h":
                live.append(f"w{next(names)}")
                actions = cluster.hello(live[-1])
            case "a":
                live.append(f"d{next(names)}")
                line.append(live[-1])
                actions = cluster.attach(live[-1])
            case "d":
                actions = cluster.say(peer, Detach("s", "")) if peer[:1] == "d" else []
            case "g":
                actions = cluster.do(Gone(peer, "gone")) if peer else []
            case "b":
                actions = cluster.say(peer, Bye(peer, "")) if peer[:1] == "w" else []
            case "t":
                alive = [p for p in live if chance.random() < 0.9]
                actions = cluster.wait(chance.choice([1, 1, 3]), *alive)
            case _:
                actions = cluster.say("stray", Heartbeat("stray", 0, 0, -1, 0))
        for action in actions:
            match action:
                case Forget("stray"):  # once it has said nothing of itself for a lease
                    pass
                case Forget(gone):
                    live.remove(gone)
                    serving.pop(gone, None)
                    line = [d for d in line if d != gone]
                    served = None if served == gone else served
                case Tell(driver, Attached(session)):
                    assert served is None
                    assert driver == line[0]
                    served = driver
                    assert cluster.machine.session(driver) == session
                case Tell(worker, Serve(session)):
                    assert worker not in serving
                    assert served is not None
                    assert session == cluster.machine.session(served)
                    serving[worker] = session
        for worker, session in serving.items():
            assert cluster.machine.route(worker, session) == (served, worker)
        assert all(cluster.machine.knows(p) for p in live)
