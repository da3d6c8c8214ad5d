"""Managers that replicate, several in one loop: real stores, real servers on loopback ports that stay theirs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio

from jlogd.confrepo.model import Changes, Commit, CommitId, File
from jlogd.confrepo.repository import MAIN, Repository
from jlogd.runtime.certificates import DenyList
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.fs import File as OpenFile
from jlogd.runtime.rpc import TlsFiles, server_credentials, server_options
from managerd.ecconfigd.change import CommitRequest, Outcome, Result
from managerd.ecconfigd.committer import Hold
from managerd.ecconfigd.edits import Delete, Edit, Put
from managerd.ecconfigd.hearing import Hearing
from managerd.ecconfigd.join import JOINING
from managerd.ecconfigd.nodes import NODES_FILE, Registry
from managerd.ecconfigd.receiving import ReplicaReceiver
from managerd.ecconfigd.replication import PeerState, Replication
from managerd.ecconfigd.store import Store
from managerd.ecconfigd.telling import Teller
from tests.support.fleet import free_port
from tests.support.revisions import store as store_there

WAIT_S = 20.0
Texts = Mapping[str, str | None]


class HastyFile(OpenFile):
    """Syncs nothing."""

    def datasync(self) -> None:
        """Nothing."""


class HastyFs(FileSystem):
    """Syncs nothing: to make a long history quickly, before the test begins."""

    file_class = HastyFile

    def sync_dir(self, path: Path) -> None:
        """Nothing."""

    def sync_all(self, path: Path) -> None:
        """Nothing."""


@dataclass
class Member:
    """One manager. Settings may be changed while it is down."""

    name: str
    home: Path
    port: int
    writer: str = "m1"
    peers: Sequence[str] = ()
    replicas_min: int = 1
    tls: TlsFiles | None = None
    fs: FileSystem = OS
    deny: Path | None = None
    up: bool = False
    store: Store = field(init=False)
    replication: Replication = field(init=False)
    registry: Registry = field(init=False)
    hearing: Hearing = field(init=False)
    teller: Teller = field(init=False)
    _server: grpc.aio.Server = field(init=False)

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    @property
    def repository(self) -> Path:
        """Its bare repository."""
        return self.home / "config.git"

    def lay(self, *changes: Changes) -> None:
        """Revisions straight into its repository, while it is down."""
        self.home.mkdir(exist_ok=True)
        repository = Repository.open(self.repository, fs=HastyFs())
        before = at = repository.head()
        for each in changes:
            at = repository.commit(store_there(repository, each, parent=at))
        if at is not None:
            repository.advance({MAIN: (before.id if before is not None else None, at.id)})
        repository.close()

    async def begin(self, *, serving: bool = True, hold: Hold | None = None) -> None:
        """Begin all of it; not ``serving``: nobody can ask it or push to it."""
        self.home.mkdir(exist_ok=True)
        self.store = Store(
            self.repository, manager=self.name, writer=self.writer == self.name, replicas_min=self.replicas_min,
            tls=self.tls, fs=self.fs,
        )  # fmt: skip
        self.replication = Replication(
            self.store, manager=self.name, writer=self.writer, peers=self.peers, replicas_min=self.replicas_min,
            tls=self.tls,
        )  # fmt: skip
        self.store.hold = hold
        await self.store.begin()
        self._server = grpc.aio.server(options=server_options())
        deny = DenyList(self.deny)
        self.registry = Registry(self.home / NODES_FILE, manager=self.name)
        self.hearing = Hearing(self.registry, manager=self.name)
        self.teller = Teller(self.registry, manager=self.name, peers=self.peers, tls=self.tls)
        receiver = ReplicaReceiver(self.store, self.hearing, manager=self.name, writer=self.writer, deny=deny)
        self._server.add_generic_rpc_handlers((receiver.handler(),))
        if serving and self.tls is None:
            self._server.add_insecure_port(self.address)
        elif serving and self.tls is not None:
            self._server.add_secure_port(self.address, server_credentials(self.tls))
        await self._server.start()
        await self.replication.begin()
        await self.teller.begin()
        self.up = True

    async def end(self) -> None:
        """End it; what is on its disk stays."""
        if self.up:
            self.up = False
            await self.hearing.end(5.0)
            await self.teller.end(5.0)
            await self.replication.end(5.0)
            await self._server.stop(0)
            await self.store.end()

    async def again(self, *, writer: str = "", serving: bool = True) -> None:
        """A restart, with another writer perhaps."""
        await self.end()
        self.writer = writer or self.writer
        await self.begin(serving=serving)

    async def begin_as(self, writer: str) -> None:
        """Begin with that writer."""
        self.writer = writer
        await self.begin()

    # ------------------------------------------------------------------ what it does and has

    async def commit(
        self, texts: Texts, message: str = "a change", *, author: str = "operator:alice", base: str = ""
    ) -> Result:
        """One revision by the ordinary way."""
        edits: list[Edit] = [
            Delete(path) if text is None else Put(path, File(text.encode())) for path, text in texts.items()
        ]
        return await self.store.commit(CommitRequest(message, edits, base), author)

    async def made(self, texts: Texts, message: str = "a change", **more: Any) -> Commit:
        """The revision that ``commit`` made."""
        result = await self.commit(texts, message, **more)
        assert result.outcome is Outcome.COMMITTED, result
        assert result.commit is not None
        return result.commit

    def peer(self, name: str) -> PeerState:
        """What it knows of another one."""
        return next(state for state in self.replication.peers() if state.name == name)

    async def refs(self) -> dict[str, CommitId]:
        """Every ref."""
        return await self.store.read(Repository.refs)

    def shared_refs(self) -> dict[str, CommitId]:
        """Those that every manager has."""
        return {name: tip for name, tip in self.store._state.refs.items() if not name.startswith(JOINING)}

    async def line(self) -> list[Commit]:
        """Its revisions, the oldest first."""
        return await self.store.read(lambda repository: list(repository.log())[::-1])

    async def texts(self) -> dict[str, str]:
        """Every file of head."""

        def read(repository: Repository) -> dict[str, str]:
            found = repository.files(repository.head())
            return {path: repository.content(entry).decode() for path, entry in found.items()}

        return await self.store.read(read)

    def head(self) -> CommitId | None:
        """The id of head."""
        head = self.store.head()
        return head.id if head is not None else None

    def confirmed(self) -> int:
        """The number of the newest confirmed revision."""
        confirmed = self.store.confirmed()
        return confirmed.revision if confirmed is not None else 0


@contextlib.asynccontextmanager
async def members(home: Path, count: int, *, begin: bool = True, **settings: Any) -> AsyncIterator[list[Member]]:
    """``m1`` … that all know each other; ``settings``: of each ``Member``."""
    ports = [free_port() for _ in range(count)]
    made = [
        Member(
            f"m{number}", home / f"m{number}", port,
            peers=[f"127.0.0.1:{other}" for other in ports if other != port], **settings,
        )
        for number, port in enumerate(ports, 1)
    ]  # fmt: skip
    try:
        for member in made:
            if begin:
                await member.begin()
        yield made
    finally:
        await asyncio.gather(*(member.end() for member in made))


async def until(is_so: Callable[[], bool], what: str = "") -> None:
    """Wait until it is so."""
    end_s = asyncio.get_running_loop().time() + WAIT_S
    while not is_so():
        assert asyncio.get_running_loop().time() < end_s, f"not in {WAIT_S:g} s: {what}"
        await asyncio.sleep(0.01)


async def same_line(*those: Member) -> None:
    """Wait until all of them have the same refs, and head is confirmed everywhere."""

    def is_so() -> bool:
        head = those[0].store.head()
        return head is not None and all(
            member.confirmed() == head.revision and member.shared_refs() == those[0].shared_refs() for member in those
        )

    await until(is_so, f"all have the same: {[(each.name, each.shared_refs(), each.confirmed()) for each in those]}")
