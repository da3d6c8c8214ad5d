"""ConfigService: what operators (eccfg) ask of a manager. Runs on the server's loop.

Who calls comes from the certificate (``calls``), what they may from ``global/access.toml`` (``rights``). Reads run in
the store's reader threads, a few at a time (``seeing``). What changes anything runs on the writer, to which every
other manager passes the whole call through (``committing``, ``forwarding``), once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from jlogd.confrepo.model import DEFAULT, FILE_BYTES_MAX, Commit, Revision, Scope
from jlogd.confrepo.repository import Repository
from jlogd.runtime.certificates import DenyList
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import RefusedError
from managerd.ecconfigd import explaining, reading, sides
from managerd.ecconfigd.blame import blame
from managerd.ecconfigd.calls import Behaviour, Call, Caller, handler_of
from managerd.ecconfigd.committing import Committing
from managerd.ecconfigd.conducting import Conducting
from managerd.ecconfigd.history import History, Signer
from managerd.ecconfigd.nodes import NodeEntry
from managerd.ecconfigd.rights import Gate
from managerd.ecconfigd.rollout import Status
from managerd.ecconfigd.seeing import Seeing
from managerd.ecconfigd.watching import Watching
from managerd.ecconfigd.wire import fit, node_of, pieces, revision_of, rollout_of
from managerd.v1 import config_pb2 as pb

if TYPE_CHECKING:
    from managerd.ecconfigd.conductor import Conductor
    from managerd.ecconfigd.hearing import Hearing
    from managerd.ecconfigd.nodes import Registry
    from managerd.ecconfigd.replication import Replication
    from managerd.ecconfigd.store import Store
    from managerd.ecconfigd.targets import Targets


def _nobody(_repository: Repository, _commit: Commit) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the service stands on; all live on the loop of the server, and are somebody else's to start and stop."""

    store: "Store"
    registry: "Registry"
    conductor: "Conductor"
    targets: "Targets"
    replication: "Replication"
    hearing: "Hearing"
    deny: DenyList
    manager: str  # our own name
    data: Path  # the manager's data directory: imports pass through it
    replicas_min: int
    push_timeout_s: float
    signer: Signer = _nobody  # who signed a commit; see ``signers``
    clock: Clock = SYSTEM


class ConfigService:
    """See the module. ``begin`` once the parts run; ``end`` before they stop."""

    def __init__(self, parts: Parts) -> None:
        """Nothing runs yet."""
        self._parts = parts
        self._history = History(parts.signer)
        self._seeing = Seeing(parts)
        self._committing = Committing(parts, self._seeing)
        self._conducting = Conducting(parts, self._seeing, self._committing.forwarding)
        self._watching = Watching(
            parts.store, parts.registry, parts.conductor,
            show_revision=self._show_revision, show_node=self._show_node, show_rollout=self._show_rollout,
            clock=parts.clock,
        )  # fmt: skip

    async def begin(self) -> None:
        """Listen for changes."""
        await self._watching.begin()

    def handler(self) -> grpc.GenericRpcHandler:
        """For the server."""
        behaviours: dict[str, Behaviour] = {
            "Commit": self._committing.commit,
            "Publish": self._committing.publish,
            "Import": self._committing.import_,
            "Rollout": self._conducting.rollout,
            "Tree": self.tree,
            "Log": self.log,
            "Cat": self.cat,
            "Blame": self.blame,
            "Explain": self.explain,
            "Effective": self.effective,
            "Nodes": self.nodes,
            "Watch": self.watch,
            "Status": self.status,
            "Export": self.export,
        }
        return handler_of(pb.DESCRIPTOR.services_by_name["ConfigService"], behaviours, self._parts.deny)

    async def end(self, deadline_s: float) -> None:
        """End the watchers; calls that run are the server's to end."""
        del deadline_s  # nothing here waits
        await self._watching.end()

    @property
    def watchers(self) -> int:
        """How many watch."""
        return self._watching.watchers

    @property
    def told(self) -> Revision:
        """The newest revision that watchers were told of."""
        return self._watching.told

    # ------------------------------------------------------------------ the repository

    async def log(self, call: Call, request: pb.LogRequest) -> pb.LogResponse:
        """``ConfigService.Log``."""
        gate, confirmed = await self._seeing.gate(call.caller), self._seeing.confirmed()
        return await self._seeing.read(lambda repository: self._history.log(repository, gate, request, confirmed))

    async def tree(self, call: Call, request: pb.TreeRequest) -> None:
        """``ConfigService.Tree``."""
        gate = await self._seeing.gate(call.caller)

        def find(repository: Repository) -> tuple[pb.Revision, list[Any]]:
            commit = repository.resolve(request.revision)
            since = repository.resolve(request.since) if request.since else None
            found = reading.changed_paths(repository, commit, since, gate, request.path)
            return self._shown(repository, commit, gate), found

        revision, found = await self._seeing.read(find)
        await call.write(pb.TreeResponse(revision=revision))
        first = 0
        while first < len(found):
            files = await self._seeing.read(
                partial(reading.batch, found=found, first=first, names_only=request.names_only)
            )
            for file in files:
                await call.write(pb.TreeResponse(entry=_entry(file)))
                for piece in pieces(file.content or b""):
                    await call.write(pb.TreeResponse(piece=piece))
            first += len(files)

    async def cat(self, call: Call, request: pb.CatRequest) -> pb.CatResponse:
        """``ConfigService.Cat``."""
        gate = await self._seeing.gate(call.caller)
        scope = await self._seeing.scope_of(request.node) if request.node else None

        def find(repository: Repository) -> pb.CatResponse:
            commit = repository.resolve(request.revision)
            if scope is None:
                file = reading.read_file(repository, commit, gate, request.path)
                mode, content = file.mode, file.content
            else:
                view = reading.view_file(repository, commit, gate, scope, request.path)
                mode, content = view.mode, view.content
            if len(content) > FILE_BYTES_MAX:
                raise RefusedError(f"{request.path} has {len(content)} bytes in this view: too many for one answer")
            return pb.CatResponse(mode=mode, content=content, revision=self._brief(commit))

        return await self._seeing.read(find)

    async def blame(self, call: Call, request: pb.BlameRequest) -> pb.BlameResponse:
        """``ConfigService.Blame``."""
        gate = await self._seeing.gate(call.caller)
        gate.require_read(request.path)

        def find(repository: Repository) -> pb.BlameResponse:
            commit = repository.resolve(request.revision)
            lines = blame(repository, commit, request.path, clock=self._parts.clock)
            return pb.BlameResponse(lines=[_blamed(owner, text) for owner, text in lines])

        return await self._seeing.read(find)

    # ------------------------------------------------------------------ a node's view

    async def explain(self, call: Call, request: pb.ExplainRequest) -> pb.ExplainResponse:
        """``ConfigService.Explain``."""
        gate, found = await self._seeing.gate(call.caller), await self._seeing.subcluster_of(request.node)
        scope = Scope(found or DEFAULT, request.node)

        def find(repository: Repository) -> pb.ExplainResponse:
            commit = repository.resolve(request.revision)
            keys = explaining.explain(
                repository, commit, gate, scope, request.path, request.key, clock=self._parts.clock
            )
            return pb.ExplainResponse(keys=keys, revision=self._brief(commit), unheard_of=found is None)

        return await self._seeing.read(find)

    async def effective(self, call: Call, request: pb.EffectiveRequest) -> None:
        """``ConfigService.Effective``."""
        gate, found = await self._seeing.gate(call.caller), await self._seeing.subcluster_of(request.node)
        scope = Scope(found or DEFAULT, request.node)

        def find(repository: Repository) -> tuple[pb.Revision, reading.Plan]:
            commit = repository.resolve(request.revision)
            return self._brief(commit), reading.plan_of(repository, commit, scope)

        revision, plan = await self._seeing.read(find)
        await call.write(pb.EffectiveResponse(revision=revision, unheard_of=found is None))
        paths, first = sorted(plan), 0
        while first < len(paths):
            files = await self._seeing.read(partial(reading.view_files, gate=gate, plan=plan, paths=paths, first=first))
            for file in files:
                shown = pb.EffectiveFile(path=file.path, mode=file.mode, size=len(file.content), layers=file.layers)
                await call.write(pb.EffectiveResponse(file=shown))
                for piece in pieces(file.content):
                    await call.write(pb.EffectiveResponse(piece=piece))
            first += len(files)

    # ------------------------------------------------------------------ the fleet

    async def nodes(self, call: Call, _request: pb.NodesRequest) -> pb.NodesResponse:
        """``ConfigService.Nodes``."""
        shown = [self._show_node(call.caller, entry) for entry in self._parts.registry.snapshot()]
        head = self._parts.store.head()
        answer = pb.NodesResponse(nodes=fit([node for node in shown if node is not None]), silent=self._silent())
        if head is not None:
            answer.head.CopyFrom(self._brief(head))
        return answer

    def _silent(self) -> list[str]:
        """Managers that tell us nothing of their nodes; the address of one that never said its name."""
        parts = self._parts
        return sorted(
            state.name or state.peer.address
            for state in parts.replication.peers()
            if not parts.hearing.hears(state.name)
        )

    async def watch(self, call: Call, request: pb.WatchRequest) -> None:
        """``ConfigService.Watch``."""
        with self._watching.watcher(call.caller) as watcher:
            await call.context.send_initial_metadata(())  # tells that events count from now on
            if request.state:
                for event in await self._present(call.caller):
                    await call.write(event)
            while True:
                await call.write(await watcher.next())

    async def _present(self, caller: Caller) -> list[pb.WatchResponse]:
        events: list[pb.WatchResponse] = []
        head, rollout = self._parts.store.confirmed(), self._parts.conductor.status()
        if head is not None:
            gate = await self._seeing.gate(caller)
            shown = await self._seeing.read(lambda repository: self._shown(repository, head, gate))
            events.append(pb.WatchResponse(revision=shown))
        nodes = (self._show_node(caller, entry) for entry in self._parts.registry.snapshot())
        events += [pb.WatchResponse(node=node) for node in nodes if node is not None]
        state = self._show_rollout(caller, rollout) if rollout is not None else None
        if state is not None:
            events.append(pb.WatchResponse(rollout=state))
        now_ns = self._parts.clock.wall_ns()
        for event in events:
            event.time_ns = now_ns
        return events

    async def status(self, call: Call, _request: pb.StatusRequest) -> pb.StatusResponse:
        """``ConfigService.Status``."""
        parts = self._parts
        gate, head = await self._seeing.gate(call.caller), parts.store.head()
        branches = await self._seeing.read(partial(sides.side_branches, gate=gate))
        peers = [
            pb.Peer(
                address=state.peer.address, name=state.name, revision=state.revision, state=state.state,
                error=state.error,
            )
            for state in parts.replication.peers()
        ]  # fmt: skip
        return pb.StatusResponse(
            manager=parts.manager,
            writer=parts.replication.writer,
            head=self._brief(head) if head is not None else None,
            confirmed=self._seeing.confirmed(),
            peers=peers,
            side_branches=branches,
            replicas_min=parts.replicas_min,
        )

    async def export(self, call: Call, request: pb.ExportRequest) -> None:
        """``ConfigService.Export``."""
        gate = await self._seeing.gate(call.caller)
        gate.require_everything("read", "export the history")
        bundle = await self._seeing.read(lambda repository: repository.bundle(request.revision))
        while (piece := await self._seeing.read(lambda _: next(bundle, None))) is not None:
            for part in pieces(piece):
                await call.write(pb.ExportResponse(piece=part))

    # ------------------------------------------------------------------ what a caller may see

    def _brief(self, commit: Commit) -> pb.Revision:
        """Which one it is, for everybody."""
        return revision_of(commit, confirmed=self._seeing.confirmed(), words=False)

    def _shown(self, repository: Repository, commit: Commit, gate: Gate) -> pb.Revision:
        return self._history.revision(repository, commit, gate, self._seeing.confirmed())

    def _show_revision(self, number: Revision, callers: Sequence[Caller], repository: Repository) -> list[pb.Revision]:
        commit = repository.at(number)
        return [self._shown(repository, commit, self._gate_now(caller)) for caller in callers]

    def _gate_now(self, caller: Caller) -> Gate:
        """Without a look into the tree: of a node that never attached the watcher sees no paths."""
        entry = self._parts.registry.get(caller.name) if caller.role == "node" else None
        scope = Scope(entry.subcluster, entry.name) if entry is not None else None
        if scope is not None and not self._parts.targets.may_be_of(scope.node, scope.subcluster):
            scope = None
        return Gate.of(self._parts.store.rules(), caller, scope)

    def _show_node(self, caller: Caller, entry: NodeEntry) -> pb.Node | None:
        if caller.role == "node" and caller.name != entry.name:
            return None
        return node_of(entry, self._parts.targets.target(entry.name, entry.subcluster))

    def _show_rollout(self, caller: Caller, status: Status) -> pb.RolloutState | None:
        return None if caller.role == "node" else rollout_of(status)


def _entry(file: reading.Changed) -> pb.TreeEntry:
    if file.entry is None:
        return pb.TreeEntry(path=file.path)
    return pb.TreeEntry(path=file.path, mode=file.entry.mode, id=file.entry.id, size=file.size)


def _blamed(owner: Commit | None, text: bytes) -> pb.BlameLine:
    if owner is None:
        return pb.BlameLine(text=text)
    return pb.BlameLine(revision=owner.revision, id=owner.id, author=owner.author, time_s=owner.time_s, text=text)
