"""Managers tell each other of their nodes: real ones on loopback that come, go, repeat themselves, lie."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from jlogd.runtime.certificates import DenyList
from jlogd.runtime.errors import (
    DamageError,
    DeadlineError,
    JlogdError,
    NotPermittedError,
    RefusedError,
    UnavailableError,
)
from jlogd.runtime.rpc import TlsFiles, call_error
from jlogd.v1 import attach_pb2
from managerd import pki
from managerd.ecconfigd import calls, hearing, telling, wire
from managerd.ecconfigd.calls import handler_of
from managerd.ecconfigd.hearing import Hearing
from managerd.ecconfigd.nodes import NODES_FILE, NodeEntry, Registry
from managerd.ecconfigd.sightings import Sighting
from managerd.v1 import config_pb2 as pb
from managerd.v1 import config_pb2_grpc as pb_grpc
from tests.support import certificates
from tests.support.attaching import report
from tests.support.managers import WAIT_S, Member, members, until
from tests.support.serving import channel, run, served


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "BACKOFF_MIN_S", 0.05)
    monkeypatch.setattr(telling, "BACKOFF_MAX_S", 0.2)


def shown(member: Member) -> dict[str, tuple[str, int, tuple[str, ...]]]:
    """What it knows: state, revision, via whom."""
    return {entry.name: (entry.state, entry.revision, entry.via) for entry in member.registry.snapshot()}


# ---------------------------------------------------------------------- both ends


def test_everybody_knows_every_node(tmp_path: Path) -> None:
    """Those that were there before, those that come, what they say, and that they go; a third manager too."""

    async def story() -> None:
        async with members(tmp_path, 3, begin=False) as (m1, m2, m3):
            await m2.begin()
            m2.registry.attached("web2", "web", "age1qqq")
            m2.registry.report("web2", report(3))
            await m1.begin()
            await m3.begin()
            for each in (m1, m3):
                await until(lambda each=each: shown(each) == {"web2": ("applied", 3, ("m2",))})  # type: ignore[misc]
            m1.registry.attached("web1", "web")
            both = {"web1": ("pending", 0, ("m1",)), "web2": ("applied", 3, ("m2",))}
            await until(lambda: all(shown(each) == both for each in (m1, m2, m3)), f"{shown(m3)}")
            m2.registry.report("web2", report(4, "rolled_back", error="no", drift=("a",), drift_count=1))
            m2.registry.detached("web2")
            await until(lambda: shown(m1)["web2"] == ("offline", 4, ("m2",)))
            entry = m1.registry.get("web2")
            assert entry is not None
            assert (entry.recipient, entry.error, entry.drift) == ("age1qqq", "no", ("a",))
            assert entry.report == report(4, "rolled_back", error="no", drift=("a",), drift_count=1)

    run(story())


def test_the_last_word_of_a_node_that_went_at_once_is_heard(tmp_path: Path) -> None:
    """It failed and was gone before anything was passed on: whoever counts failures hears that first."""

    async def story() -> None:
        async with members(tmp_path, 2) as (m1, m2):
            await until(lambda: m1.hearing.hears("m2"))
            heard: list[NodeEntry] = []
            m1.registry.subscribe(heard.append)
            m2.registry.attached("web2", "web")
            m2.registry.report("web2", report(2, "rolled_back"))
            m2.registry.detached("web2")
            await until(lambda: bool(heard) and heard[-1].state == "offline")
            assert [(entry.state, entry.fresh) for entry in heard] == [("rolled_back", True), ("offline", False)]

    run(story())


def test_a_manager_that_goes_takes_away_who_is_nowhere_else(tmp_path: Path) -> None:
    """And brings them back by itself, in new sessions; either side may be the one that restarts."""

    async def story() -> None:
        async with members(tmp_path, 2) as (m1, m2):
            m1.registry.attached("both", "web")
            for name in ("both", "web2"):
                m2.registry.attached(name, "web")
                m2.registry.report(name, report(2))
            there = {"both": ("applied", 2, ("m1", "m2")), "web2": ("applied", 2, ("m2",))}
            await until(lambda: shown(m1) == there)
            for goes in (m2, m1):
                before = m1.registry.get("web2")
                assert before is not None
                await goes.end()
                if goes is m2:
                    await until(lambda: shown(m1) == there | {"both": ("applied", 2, ("m1",)),
                                                              "web2": ("offline", 2, ("m2",))})  # fmt: skip
                    assert not m1.hearing.hears("m2")
                await goes.begin()
                for name in ("both", "web2") if goes is m2 else ("both",):
                    goes.registry.attached(name, "web")
                    goes.registry.report(name, report(2))
                await until(lambda: shown(m1) == there, f"after the end of {goes.name}: {shown(m1)}")
                after = m1.registry.get("web2")
                assert after is not None
                assert after.changed_ns != before.changed_ns

    run(story())


def test_changes_are_gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that says a hundred things is told a few times, the newest last; one that repeats itself, never."""

    async def story() -> None:
        async with members(tmp_path, 2) as (m1, m2):
            await until(lambda: m1.hearing.hears("m2"))
            m2.registry.attached("web2", "web")
            await until(lambda: "web2" in shown(m1))
            heard: list[NodeEntry] = []
            m1.registry.subscribe(heard.append)
            for number in range(1, 101):
                m2.registry.report("web2", report(number, since_ns=number))
                await asyncio.sleep(0.001)
            await until(lambda: shown(m1)["web2"][1] == 100)
            assert len(heard) <= 5
            sent: list[object] = []
            m2.registry.subscribe_here(sent.append)
            m2.registry.report("web2", report(100, since_ns=100, number=7))
            assert sent == []

    monkeypatch.setattr(telling, "GATHER_S", 0.1)
    run(story())


def test_many_nodes_come_in_messages_of_bounded_size(tmp_path: Path) -> None:
    """With the longest texts that a report may have, all of them arrive; of drift, what fits."""
    worst = report(1, error="\N{SAUROPOD}" * 2000, drift=("ü" * 500,) * 100, drift_count=100)
    told = wire.told_of(("n" * 63, Sighting("s" * 63, "age1" + "q" * 250, 1, worst), True))
    assert telling.BATCH * told.ByteSize() < 4 << 20
    assert telling.BATCH <= hearing.NODES_MAX
    assert 0 < len(told.report.drift) < 5
    assert told.report.drift_count == 100

    async def story() -> None:
        async with members(tmp_path, 2, begin=False) as (m1, m2):
            await m2.begin()
            for number in range(telling.BATCH + 1):
                m2.registry.attached(f"n{number}", "web")
                m2.registry.report(f"n{number}", worst)
            await m1.begin()
            await until(lambda: m1.hearing.hears("m2"))
            assert {(state, via) for state, _, via in shown(m1).values()} == {("applied", ("m2",))}
            assert len(shown(m1)) == telling.BATCH + 1

    run(story())


def test_a_manager_that_refuses_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its refusal comes after the first words were written, each time anew; the pauses grow all the same."""
    refused = asyncio.Semaphore(0)

    async def refuse(_call: calls.Call, _requests: object) -> None:
        refused.release()
        raise RefusedError("take its own address out")

    async def story() -> None:
        service = pb.DESCRIPTOR.services_by_name["ReplicaService"]
        handler = handler_of(service, {method.name: refuse for method in service.methods}, DenyList(None))
        async with served(handler) as address:
            teller = telling.Teller(
                Registry(tmp_path / NODES_FILE, manager="m1"), manager="m1", peers=[address], tls=None
            )
            await teller.begin()
            async with asyncio.timeout(WAIT_S):
                for _ in range(6):
                    await refused.acquire()
            await teller.end(WAIT_S)

    run(story())
    assert caplog.text.count("is not told of nodes: take its own address out") == 1


# ---------------------------------------------------------------------- the hearing end


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TlsFiles]:
    home = tmp_path_factory.mktemp("pki")
    pki.init(home)
    issued: list[tuple[pki.Role, str]] = [("manager", "m1"), ("manager", "m2"), ("operator", "alice"), ("node", "web1")]
    for role, name in issued:
        pki.issue(role, name, home)
    return {name: certificates.files(home, name) for _, name in issued}


class Ear:
    """m1, which only hears; and calls to it."""

    def __init__(self, registry: Registry, hears: Hearing, stub: Any) -> None:
        self.registry = registry
        self.hearing = hears
        self.stub = stub

    async def told(self, *messages: pb.TellRequest) -> Any:
        """A call in which these were said; it goes on."""
        call = self.stub.Tell()
        for message in messages:
            await call.write(message)
        return call

    async def refusal(self, *messages: pb.TellRequest) -> JlogdError:
        """What ends the call."""
        call = self.stub.Tell()
        with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):  # it may end before all is said
            for message in messages:
                await call.write(message)
        return await error_of(call)

    def states(self) -> dict[str, str]:
        return {entry.name: entry.state for entry in self.registry.snapshot()}


async def error_of(call: Any) -> JlogdError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return call_error(error.value, "m1")


@contextlib.asynccontextmanager
async def ear(home: Path, *, tls: TlsFiles | None = None, who: TlsFiles | None = None) -> AsyncIterator[Ear]:
    registry = Registry(home / NODES_FILE, manager="m1")
    hears = Hearing(registry, manager="m1")
    service = pb.DESCRIPTOR.services_by_name["ReplicaService"]
    behaviours = {method.name: hears.tell for method in service.methods}
    handler = handler_of(service, behaviours, DenyList(None))
    async with served(handler, tls=tls) as address, channel(address, who) as opened:
        yield Ear(registry, hears, pb_grpc.ReplicaServiceStub(opened))


def first(*names: str, manager: str = "m2", whole: bool = False, **more: Any) -> pb.TellRequest:
    nodes = [pb.ToldNode(name=name, subcluster="web", session=1, attached=True) for name in names]
    return pb.TellRequest(manager=manager, nodes=nodes, whole=whole, **more)


@pytest.mark.parametrize(
    ("who", "message", "kind", "words"),
    [
        ("alice", first(), NotPermittedError, "only managers replicate"),
        ("web1", first(), NotPermittedError, "only managers replicate"),
        ("m2", first(manager="m3"), RefusedError, "the certificate 'm2'"),
        ("m2", first(manager=""), DamageError, "says its name first"),
        ("m1", first(manager="m1"), RefusedError, "peers"),
        ("m2", first(*[f"n{number}" for number in range(1001)]), DamageError, "at most 1000"),
    ],
    ids=["operator", "node", "another", "nobody", "itself", "too-many"],
)
def test_who_may_tell(
    tmp_path: Path, files: dict[str, TlsFiles], who: str, message: pb.TellRequest, kind: type, words: str
) -> None:
    """The certificate says who tells; nothing is known of what others said."""

    async def story() -> None:
        async with ear(tmp_path, tls=files["m1"], who=files[who]) as m1:
            error = await m1.refusal(message)
            assert isinstance(error, kind)
            assert words in str(error)
            assert m1.states() == {}

    run(story())


def test_a_node_that_is_told_wrongly_harms_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Left out, and named once."""
    bad = [
        pb.ToldNode(name="../x", subcluster="web", attached=True),
        pb.ToldNode(name="a", subcluster="", attached=True),
        pb.ToldNode(name="b", subcluster="web", attached=True, recipient="key"),
        pb.ToldNode(name="c", subcluster="web", attached=True, report=attach_pb2.Report(state=99)),  # type: ignore[arg-type]
        pb.ToldNode(
            name="d",
            subcluster="web",
            attached=True,
            report=attach_pb2.Report(state=attach_pb2.Report.STATE_APPLIED, revision=1),
        ),
    ]

    async def story() -> None:
        async with ear(tmp_path) as m1:
            message = first("good", whole=True)
            message.nodes.extend(bad)
            await m1.told(message)
            await until(lambda: m1.hearing.hears("m2"))
            assert m1.states() == {"good": "pending"}

    run(story())
    assert caplog.text.count("left out") == 1


def test_what_the_newest_call_told_counts(tmp_path: Path) -> None:
    """It ends the one before; who is not named by the time that all is told is gone; its own end takes all away."""

    async def story() -> None:
        async with ear(tmp_path) as m1:
            older = await m1.told(first("a", "b", whole=True))
            await until(lambda: m1.hearing.hears("m2"))
            newer = await m1.told(first("b"))
            assert "newer call" in str(await error_of(older))
            assert m1.states() == {"a": "pending", "b": "pending"}
            assert not m1.hearing.hears("m2")
            await newer.write(pb.TellRequest(whole=True))
            await until(lambda: m1.hearing.hears("m2"))
            assert m1.states() == {"a": "offline", "b": "pending"}
            newer.cancel()
            await until(lambda: m1.states() == {"a": "offline", "b": "offline"})
            assert not m1.hearing.hears("m2")

    run(story())


def test_a_silent_manager_and_one_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are told so; and everybody, when this one stops."""
    monkeypatch.setattr(hearing, "MANAGERS_MAX", 2)

    async def story() -> None:
        async with ear(tmp_path) as m1:
            one = await m1.told(first("a"))
            await until(lambda: "a" in m1.states())
            two = await m1.told(first("b", manager="m3"))
            await until(lambda: "b" in m1.states())
            assert isinstance(await m1.refusal(first("c", manager="m4")), UnavailableError)
            await m1.hearing.end(1.0)
            for call in (one, two):
                assert "stopping" in str(await error_of(call))
            monkeypatch.setattr(calls, "SILENT_S", 0.05)
            assert isinstance(await m1.refusal(first("a")), DeadlineError)
            await until(lambda: m1.states() == {"a": "offline", "b": "offline"})

    run(story())
