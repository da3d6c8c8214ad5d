"""What a manager lets others do, and what others may say to it: who lies harms nobody."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from jlogd.confrepo.model import Commit, CommitId, File, Revision
from jlogd.confrepo.objects import ObjectStore
from jlogd.confrepo.repository import CONFIRMED, MAIN, ROLLOUT, SIDE, Repository
from jlogd.runtime.certificates import DenyList
from jlogd.runtime.errors import DamageError, JlogdError, NotPermittedError, RefusedError, UnavailableError
from jlogd.runtime.rpc import TlsFiles, call_error
from managerd import pki
from managerd.ecconfigd import replication as replication_module
from managerd.ecconfigd.calls import handler_of
from managerd.ecconfigd.committer import JOINED
from managerd.ecconfigd.hearing import Hearing
from managerd.ecconfigd.nodes import NODES_FILE, Registry
from managerd.ecconfigd.peer import Peer
from managerd.ecconfigd.receiving import ReplicaReceiver
from managerd.ecconfigd.store import Store
from managerd.ecconfigd.transit import MEMORY_BYTES, TooLargeError, Transit
from managerd.v1 import config_pb2 as pb
from managerd.v1 import config_pb2_grpc as pb_grpc
from tests.support import certificates
from tests.support.managers import Member, members, same_line, until
from tests.support.revisions import fsck
from tests.support.revisions import store as store_there
from tests.support.serving import channel, run, served

OTHER = "0123456789" * 4


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication_module, "HEARTBEAT_S", 0.5)
    monkeypatch.setattr(replication_module, "BACKOFF_MIN_S", 0.05)
    monkeypatch.setattr(replication_module, "BACKOFF_MAX_S", 0.2)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TlsFiles]:
    home = tmp_path_factory.mktemp("pki")
    pki.init(home)
    names: list[tuple[pki.Role, str]] = [("manager", "m1"), ("manager", "m2"), ("manager", "m3")]
    for role, name in [*names, ("operator", "alice"), ("node", "web1")]:
        pki.issue(role, name, home)
    return {name: certificates.files(home, name) for name in ("m1", "m2", "m3", "alice", "web1")}


@contextlib.asynccontextmanager
async def follower(
    home: Path, *, tls: TlsFiles | None = None, who: TlsFiles | None = None, writer: str = "m1"
) -> AsyncIterator[tuple[Store, Any, str]]:
    """m2, which follows m1; its store, a client of it, its address."""
    store = Store(home / "config.git", manager="m2", writer=writer == "m2", tls=tls)
    await store.begin()
    hearing = Hearing(Registry(home / NODES_FILE, manager="m2"), manager="m2")
    receiver = ReplicaReceiver(store, hearing, manager="m2", writer=writer, deny=DenyList(tls.deny if tls else None))
    async with served(receiver.handler(), tls=tls) as address, channel(address, who) as opened:
        yield store, pb_grpc.ReplicaServiceStub(opened), address
    await store.end()


async def error_of(call: Any) -> JlogdError:
    """What the other side said to it."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return call_error(error.value, "m2")


def push(
    updates: Mapping[str, tuple[str, str]], pack: Iterable[bytes] = (), *, size: int | None = None, **more: Any
) -> Iterator[pb.PushRequest]:
    pieces = list(pack)
    header = pb.PushHeader(
        updates=[pb.RefUpdate(name=name, before=before, after=after) for name, (before, after) in updates.items()],
        size=sum(map(len, pieces)) if size is None else size,
        **{"manager": "m1", **more},
    )
    yield pb.PushRequest(header=header)
    for piece in pieces:
        yield pb.PushRequest(piece=piece)


class Line:
    """A writer's history, and packs of it."""

    def __init__(self, home: Path) -> None:
        self.repository = Repository.open(home / "writer.git")

    def add(self, text: str, *, after: CommitId | None = None, path: str = "global/a") -> Commit:
        parent = self.repository.commit(after) if after else None
        return self.repository.commit(store_there(self.repository, {path: File(text.encode())}, parent=parent))

    def pack(self, *want: CommitId, have: Sequence[CommitId] = ()) -> list[bytes]:
        return list(self.repository.pack(want, have))

    def give(self, member: Member, tip: CommitId) -> None:
        """All that it has is the line of ``tip``."""
        member.home.mkdir()
        repository = Repository.open(member.repository)
        repository.receive(self.pack(tip), bytes_max=1 << 20)
        repository.advance({MAIN: (None, tip)})
        repository.close()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path)
    yield made
    made.repository.close()


# ---------------------------------------------------------------------- who may


def test_only_managers_replicate(tmp_path: Path, files: dict[str, TlsFiles]) -> None:
    """An operator's or a node's certificate is refused, by every call."""

    async def test() -> None:
        async with follower(tmp_path, tls=files["m2"], who=files["m1"]) as (_, _, address):
            for name in ("alice", "web1"):
                async with channel(address, files[name]) as opened:
                    stub = pb_grpc.ReplicaServiceStub(opened)
                    for call in (
                        stub.Refs(pb.RefsRequest()), stub.History(pb.HistoryRequest()), stub.Push(push({})),
                        read_all(stub.Fetch(pb.FetchRequest())),
                    ):  # fmt: skip
                        error = await error_of(call)
                        assert isinstance(error, NotPermittedError), (name, error)
                        assert "only managers replicate" in str(error)

    run(test())


async def read_all(call: Any) -> list[bytes]:
    return [message.piece async for message in call]


def test_a_push_is_taken_from_the_writer_of_our_own_settings_alone(
    tmp_path: Path, files: dict[str, TlsFiles], line: Line
) -> None:
    """Another manager is refused, whatever it says its name is; and before it has sent its pack."""
    tip = line.add("1")

    async def sends(address: str, who: str, **more: Any) -> pb.PushResponse:
        async with channel(address, files[who]) as opened:
            requests = push({MAIN: ("", tip.id)}, line.pack(tip.id), **more)
            return await pb_grpc.ReplicaServiceStub(opened).Push(requests)

    async def test() -> None:
        async with follower(tmp_path, tls=files["m2"]) as (store, _, address):
            answer = await sends(address, "m3", manager="m3")
            assert (answer.accepted, answer.problem) == (False, "manager m2 follows m1 ([config] writer), not m3")
            answer = await sends(address, "m3", manager="m1")
            assert not answer.accepted
            assert "the certificate 'm3'" in answer.problem
            assert store.head() is None
            answer = await sends(address, "m1")
            assert answer.accepted
            assert [(ref.name, ref.id) for ref in answer.refs] == [(MAIN, tip.id)]
            head = store.head()
            assert head is not None
            assert head.id == tip.id

    run(test())


def test_a_writer_takes_no_push(tmp_path: Path, files: dict[str, TlsFiles]) -> None:
    async def test() -> None:
        async with follower(tmp_path, tls=files["m2"], who=files["m1"], writer="m2") as (_, stub, _):
            answer = await stub.Push(push({}))
            assert "manager m2 is a writer as well" in answer.problem

    run(test())


def test_a_push_that_is_refused_is_not_read(tmp_path: Path) -> None:
    """The answer comes while the pack is still on its way."""

    async def test() -> None:
        async with follower(tmp_path, writer="m3") as (_, stub, _):
            sent = 0

            async def endless() -> AsyncIterator[pb.PushRequest]:
                nonlocal sent
                for message in push({}, size=1 << 30):
                    yield message
                while True:
                    sent += 1
                    yield pb.PushRequest(piece=bytes(1 << 20))

            answer = await stub.Push(endless())
            assert "follows m3" in answer.problem
            assert sent < 50

    run(test())


def test_managers_replicate_over_tls_and_end_with_a_denied_certificate(
    tmp_path: Path, files: dict[str, TlsFiles]
) -> None:
    async def test() -> None:
        async with members(tmp_path, 2, begin=False) as (m1, m2):
            m1.tls, m2.tls = files["m1"], files["m2"]
            m2.deny = tmp_path / "deny"
            await m2.begin()
            await m1.begin()
            await m1.made({"global/a": "1"})
            await same_line(m1, m2)
            await m2.end()
            m2.deny.write_text(pki.fingerprint(files["m1"].cert.read_bytes()) + "\n")
            await m2.begin()
            await until(lambda: "was denied" in m1.replication.peers()[0].error, "refused")
            assert m1.peer("m2").state == "refused"

    run(test())


# ---------------------------------------------------------------------- what a push may do


def test_a_push_moves_main_forward_only(tmp_path: Path, line: Line) -> None:
    first = line.add("1")
    second, aside = line.add("2", after=first.id), line.add("3", after=first.id)

    async def test() -> None:
        async with follower(tmp_path) as (store, stub, _):
            pack = line.pack(first.id, second.id, aside.id)
            assert (await stub.Push(push({MAIN: ("", second.id)}, pack, confirmed=2))).accepted
            for after in (first.id, aside.id):
                error = await error_of(stub.Push(push({MAIN: (second.id, after)})))
                assert isinstance(error, RefusedError)
                assert "does not continue ours" in str(error)
                error = await error_of(stub.Push(push({MAIN: (second.id, after)}, reset=True)))
                assert "did not join it" in str(error), "a reset that keeps nothing of what is here"
            for name in (MAIN, ROLLOUT):
                error = await error_of(stub.Push(push({name: (second.id, "")})))
                assert "may not delete" in str(error)
            answer = await stub.Push(push({MAIN: (first.id, aside.id)}))
            assert not answer.accepted, "not what the writer thinks is here"
            kept = f"{JOINED}m2-r2"
            updates = {MAIN: (second.id, aside.id), kept: ("", second.id)}
            assert (await stub.Push(push(updates, reset=True))).accepted
            assert await store.read(Repository.refs) == {MAIN: aside.id, kept: second.id}, "nothing is confirmed"
            assert (await stub.Push(push({}, confirmed=9))).accepted
            assert (await store.read(Repository.refs))[CONFIRMED] == aside.id
        fsck(tmp_path / "config.git")

    run(test())


def test_a_repository_that_is_not_ours_is_refused(tmp_path: Path, line: Line) -> None:
    """Whatever it was joined with."""
    ours, other = line.add("1"), line.add("2")

    async def test() -> None:
        async with follower(tmp_path) as (store, stub, _):
            assert (await stub.Push(push({MAIN: ("", ours.id)}, line.pack(ours.id)))).accepted
            updates = {MAIN: (ours.id, other.id), f"{JOINED}m2-r1": ("", ours.id)}
            error = await error_of(stub.Push(push(updates, line.pack(other.id), reset=True)))
            assert isinstance(error, RefusedError)
            assert "another repository" in str(error)
            head = store.head()
            assert head is not None
            assert head.id == ours.id

    run(test())


def test_a_hold_is_there_before_the_revision_that_it_holds_back(tmp_path: Path, line: Line) -> None:
    """And a line that is left has its other name before main leaves it: the order in which refs move."""
    from managerd.ecconfigd.receiving import _updates  # noqa: PLC0415 - the order shows in a crash only

    names = [SIDE + "b", MAIN, ROLLOUT, JOINED + "a"]
    header = pb.PushHeader(updates=[pb.RefUpdate(name=name, after=OTHER) for name in names])
    header.updates.add(name=SIDE + "a", before=OTHER)
    assert list(_updates(header)) == [ROLLOUT, SIDE + "b", JOINED + "a", MAIN, SIDE + "a"]


def test_bad_pushes_change_nothing(tmp_path: Path, line: Line) -> None:
    """Bytes that are no pack, more or fewer than said, of other objects; ids that are none; no header."""
    first = line.add("1")
    second = line.add("2", after=first.id)
    pack = line.pack(first.id)
    good = {MAIN: ("", first.id)}
    torn = bytearray(pack[0])
    torn[len(torn) // 2] ^= 1
    bad: dict[str, Callable[[], Iterable[pb.PushRequest]]] = {
        "missing": lambda: push({MAIN: ("", second.id)}, line.pack(second.id, have=[first.id])),
        "pack": lambda: push(good, [bytes(torn)]),
        "no pack at all": lambda: push(good, [b"hello"]),
        "than": lambda: push(good, pack, size=10),
        "bytes that says": lambda: push(good, pack, size=10_000),
        "without a byte": lambda: push(good, [*pack, b""]),
        "more than 10000 refs": lambda: push(good, pack, size=1 << 40),
        "not a commit id": lambda: push({MAIN: ("", "main")}, pack),
        "may not move 'refs/heads/other'": lambda: push({"refs/heads/other": ("", first.id)}, pack),
        "may not move 'refs/jlogd/confirmed'": lambda: push({CONFIRMED: ("", first.id)}, pack),
        "may not move '../../etc/passwd'": lambda: push({"../../etc/passwd": ("", first.id)}, pack),
        "cannot be the name of a ref": lambda: push({SIDE + "../../x": ("", first.id)}, pack),
        "begins with its header": lambda: [pb.PushRequest(piece=b"x")],
        "header": list,
        "is not here": lambda: push({MAIN: ("", OTHER)}),
    }

    async def test() -> None:
        async with follower(tmp_path) as (store, stub, _):
            for words, requests in bad.items():
                error = await error_of(stub.Push(iter(requests())))
                assert isinstance(error, DamageError | RefusedError), (words, error)
                assert words == "no pack at all" or words in str(error), error
                assert await store.read(Repository.refs) == {}
            assert (await stub.Push(push(good, pack))).accepted
        fsck(tmp_path / "config.git")

    run(test())


def test_two_pushes_at_once_are_one_too_many(tmp_path: Path, line: Line) -> None:
    """Of a writer that was restarted: the second one may come again."""

    async def test() -> None:
        async with follower(tmp_path) as (_, stub, _):
            begun = asyncio.Event()

            async def stalled() -> AsyncIterator[pb.PushRequest]:
                for message in push({}, size=100):
                    yield message
                begun.set()
                await asyncio.Event().wait()

            first = stub.Push(stalled())
            await begun.wait()
            error: JlogdError | None = None
            while error is None:  # the other side may not have seen the first one yet
                with contextlib.suppress(BaseException):
                    error = await error_of(stub.Push(push({})))
            assert isinstance(error, UnavailableError)
            first.cancel()
            tip = line.add("1")
            answer = None
            while answer is None:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    answer = await stub.Push(push({MAIN: ("", tip.id)}, line.pack(tip.id)))
            assert answer.accepted

    run(test())


def test_what_is_asked_for_is_answered(tmp_path: Path, line: Line) -> None:
    first = line.add("1")
    second = line.add("2", after=first.id)

    async def test() -> None:
        async with follower(tmp_path) as (_, stub, _):
            await stub.Push(push({MAIN: ("", second.id)}, line.pack(second.id), confirmed=1))
            refs = await stub.Refs(pb.RefsRequest())
            assert (refs.manager, refs.writer, refs.head, refs.confirmed) == ("m2", "m1", 2, 1)
            history = await stub.History(pb.HistoryRequest(revisions=[2, 0, 1, 3, 1 << 60]))
            assert list(history.ids) == [second.id, "", first.id, "", ""]
            whole = await read_all(stub.Fetch(pb.FetchRequest(want=[second.id])))
            part = await read_all(stub.Fetch(pb.FetchRequest(want=[second.id], have=[first.id, OTHER, "nonsense"])))
            store = ObjectStore.open(tmp_path / "objects")
            assert len(store.read_pack(whole, bytes_max=1 << 20)) == 8
            assert len(store.read_pack(part, bytes_max=1 << 20)) == 4
            error = await error_of(read_all(stub.Fetch(pb.FetchRequest(want=[OTHER]))))
            assert isinstance(error, RefusedError)

    run(test())


# ---------------------------------------------------------------------- peers that lie to the writer


class Liar:
    """A peer that has a good repository, and says something else when told to."""

    def __init__(self, line: Line, tip: CommitId) -> None:
        self.line = line
        self.refs = pb.RefsResponse(manager="m2", writer="m1", head=line.repository.commit(tip).revision)
        self.refs.refs.add(name=MAIN, id=tip)
        self.history: dict[int, str] = {}
        self.more_history = 0  # ids that nobody asked for
        self.pack = line.pack(tip)
        self.packs: dict[str, list[bytes]] = {}  # of other commits
        self.endless: set[str] = set()  # wanted commits whose pack has no end
        self.answer: pb.PushResponse | None = None
        self.pushed = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        behaviours = {
            "Refs": self._refs, "History": self._history, "Fetch": self._fetch, "Push": self._push, "Tell": self._tell,
        }  # fmt: skip
        return handler_of(pb.DESCRIPTOR.services_by_name["ReplicaService"], behaviours, DenyList(None))

    async def _refs(self, _call: Any, _request: Any) -> pb.RefsResponse:
        return self.refs

    async def _tell(self, _call: Any, _requests: Any) -> pb.TellResponse:
        return pb.TellResponse()

    async def _history(self, _call: Any, request: Any) -> pb.HistoryResponse:
        found = [self.history.get(number, self.history.get(0, "")) for number in request.revisions]
        return pb.HistoryResponse(ids=found + [OTHER] * self.more_history)

    async def _fetch(self, call: Any, request: Any) -> None:
        for piece in self.packs.get(request.want[0], self.pack):
            await call.write(pb.FetchResponse(piece=piece))
        while request.want[0] in self.endless:
            await call.write(pb.FetchResponse(piece=self.pack[0]))

    async def _push(self, call: Any, _requests: Any) -> pb.PushResponse:
        while await call.read() is not None:
            pass
        self.pushed.set()
        return self.answer or pb.PushResponse(accepted=True, refs=self.refs.refs)


def lies(
    line: Line, first: CommitId, middle: CommitId, theirs: CommitId
) -> dict[str, tuple[str, Callable[[Liar], None]]]:
    """What the writer says of it, and how the peer lies."""
    other = line.add("other", path="global/other")

    def refs(*names: tuple[str, str]) -> Callable[[Liar], None]:
        def change(liar: Liar) -> None:
            liar.refs.ClearField("refs")
            for name, commit in names:
                liar.refs.refs.add(name=name, id=commit)

        return change

    def named(**fields: str) -> Callable[[Liar], None]:
        return lambda liar: liar.refs.MergeFrom(pb.RefsResponse(**fields))  # type: ignore[arg-type]

    def sends(*pack: bytes, endless: bool = False) -> Callable[[Liar], None]:
        def change(liar: Liar) -> None:
            liar.pack = list(pack)
            liar.endless = {theirs, middle} if endless else set()

        return change

    def far_ahead(**history: CommitId) -> Callable[[Liar], None]:
        def change(liar: Liar) -> None:
            sends(bytes(1 << 20), endless=True)(liar)
            liar.refs.head = 1 << 50
            liar.history |= {int(number[1:]): commit for number, commit in history.items()}
            liar.packs = {first: line.pack(first), middle: line.pack(middle, have=[first])}
            liar.endless = {theirs}

        return change

    def says_more(liar: Liar) -> None:
        liar.more_history = 1

    return {
        "a ref that is no id": ("not a commit id", refs((MAIN, "HEAD"))),
        "an id that nobody has": ("did not send", refs((MAIN, OTHER))),
        "refs without end": ("refs: at most", refs(*((f"{SIDE}{n}", OTHER) for n in range(10_001)))),
        "a side branch of a bad name": ("cannot be the name of a ref", refs((f"{SIDE}../../x", first))),
        "no name": ("does not say who it is", lambda liar: liar.refs.ClearField("manager")),
        "a name with a slash": ("does not say who it is", named(manager="../m2")),
        "our own name": ("this manager itself", named(manager="m1")),
        "bytes that are no pack": ("pack", sends(b"PACK" + bytes(100))),
        "a pack of something else": ("did not send", sends(*line.pack(other.id))),
        "a pack without the beginning": ("missing", sends(*line.pack(theirs, have=[middle]))),
        "pieces without a byte": ("without a byte", sends(b"", endless=True)),
        "more than a pack may have": ("more than", sends(bytes(1 << 20), endless=True)),
        "a head that it does not have": ("has no r", far_ahead()),
        "a history that leads nowhere": ("is not r", far_ahead(r0=first)),
        "more history than asked for": ("answered 2 ids", says_more),
    }


def test_a_peer_that_lies_harms_nobody(tmp_path: Path, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it says: our refs stay, others are served, and it is said what is wrong with it."""
    for name in ("STEP_BYTES", "PACK_BYTES_MAX"):
        monkeypatch.setattr(f"managerd.ecconfigd.fetching.{name}", 3 << 20)
    first = line.add("1")
    middle = line.add("2", after=first.id)
    theirs = line.add("3", after=middle.id)

    async def lied_to(number: int, what: str, words: str, lie: Callable[[Liar], None]) -> None:
        liar = Liar(line, theirs.id)
        liar.history |= {1: first.id, 2: middle.id}
        lie(liar)
        async with served(liar.handler()) as address, members(tmp_path, 1, begin=False) as (m1,):
            shutil.rmtree(m1.home, ignore_errors=True)
            line.give(m1, first.id)
            m1.peers = [address]
            await m1.begin()
            await m1.replication.wait_ready(5)
            state = m1.replication.peers()[0]
            await until(lambda: words in state.error, f"{what}: {state.error!r} says {words!r}")
            assert state.state == "refused", what
            assert await m1.refs() == {MAIN: first.id, CONFIRMED: first.id}, what
            await m1.made({"global/b": str(number)})
            fsck(m1.repository)

    for number, (what, (words, lie)) in enumerate(lies(line, first.id, middle.id, theirs.id).items()):
        run(lied_to(number, what, words, lie))


def test_a_peer_that_says_it_took_what_it_did_not_confirms_nothing(tmp_path: Path, line: Line) -> None:
    first = line.add("1")

    async def test() -> None:
        liar = Liar(line, first.id)
        async with served(liar.handler()) as address, members(tmp_path, 1, begin=False, replicas_min=2) as (m1,):
            line.give(m1, first.id)
            m1.peers = [address]
            await m1.begin()
            assert await m1.replication.wait_confirmed(Revision(1), 5), "it has r1"
            made = await m1.made({"global/b": "1"})
            await liar.pushed.wait()
            assert not await m1.replication.wait_confirmed(made.revision, 0.2)
            state = m1.replication.peers()[0]
            await until(lambda: "does not have it" in state.error, "noticed")
            liar.answer = pb.PushResponse(accepted=False, problem="x" * 100_000, refs=liar.refs.refs)
            await until(lambda: "xxx" in state.error, "refused")
            assert len(state.error) < 1000

    run(test())


# ---------------------------------------------------------------------- packs on their way


@pytest.mark.parametrize("pieces", [1, 2 + (MEMORY_BYTES >> 20)])
def test_a_pack_on_its_way_is_what_it_was(tmp_path: Path, pieces: int) -> None:
    """In memory, and in a file that has no name."""
    with Transit(tmp_path, pieces << 20) as pack:
        for n in range(pieces):
            pack.add(bytes([n]) * (1 << 20))
        assert pack.size == pieces << 20
        for _ in range(2):
            assert b"".join(pack.pieces()) == b"".join(bytes([n]) * (1 << 20) for n in range(pieces))
        with pytest.raises(TooLargeError):
            pack.add(b"x")
        with pytest.raises(DamageError, match="without a byte"):
            pack.add(b"")
        pack.fill([b"other"], 5)
        assert b"".join(pack.pieces()) == b"other"
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_breaks_is_dialled_anew(tmp_path: Path) -> None:
    """With the certificate's files as they are then: gRPC itself would go on with the old ones."""

    async def test() -> None:
        async with members(tmp_path, 2) as (m1, m2):
            await same_line_of_first(m1, m2)
            peer = Peer(m2.address, None)
            await peer.refs()
            before, passed = peer._ours, peer.channel()
            await m2.end()
            with pytest.raises(UnavailableError):
                await peer.refs()
            await m2.begin()
            assert (await peer.refs()).manager == "m2"
            assert peer._ours is not before
            assert peer.channel() is not passed
            await peer.close()

    run(test())


async def same_line_of_first(m1: Member, *others: Member) -> None:
    await m1.made({"global/a": "1"})
    await same_line(m1, *others)
