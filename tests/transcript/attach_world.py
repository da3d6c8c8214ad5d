"""Runs the two Attach cores against each other: no network, no clock; one event at a time (see ``world``)."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, cast

from jlogd.attach import session as ne
from jlogd.attach.messages import AttachHello, Fetch, Pack, Report, Reported, State, Target, check_target
from jlogd.confrepo.model import CommitId, Revision, Serial
from jlogd.forward.messages import Hello, Refusal
from managerd.ecconfigd import attach_session as me
from managerd.ingest.events import Peer
from managerd.ingest.identity import Claims
from tests.transcript.show import show

RUN_MAX = 500  # events of one `run`: a session that never becomes quiet is a bug


def commit(revision: int) -> CommitId:
    """The digit 40 times: r1 is 111…."""
    return CommitId(str(revision % 10) * 40)


@dataclass(slots=True)
class NodeSide:
    """A node: who it says it is, and what its listener heard."""

    key: str
    identity: ne.Identity


@dataclass(slots=True)
class ManagerSide:
    """A manager: what it would tell, and what it knows."""

    name: str
    epoch: int
    protocol: int
    target: Target | None = None
    homes: dict[str, str] = field(default_factory=dict)
    reports: dict[str, str] = field(default_factory=dict)
    claims: "Claims[Connection]" = field(default_factory=Claims)


@dataclass(slots=True, eq=False)
class Connection:
    """One stream between a node and a manager."""

    node: NodeSide
    manager: ManagerSide
    node_core: ne.NodeAttach
    manager_core: me.ManagerAttach
    peer: Peer
    to_manager: deque[Any] = field(default_factory=deque)
    to_node: deque[Any] = field(default_factory=deque)
    manager_events: deque[me.Event] = field(default_factory=deque)


class AttachWorld:
    """All nodes, managers and connections of one transcript."""

    def __init__(self) -> None:
        """Empty."""
        self.nodes: dict[str, NodeSide] = {}
        self.managers: dict[str, ManagerSide] = {}
        self.connections: list[Connection] = []
        self.lines: list[str] = []

    def command(self, words: list[str]) -> None:
        """One line of a script."""
        plain = [word for word in words[1:] if "=" not in word]
        options = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        getattr(self, f"do_{words[0]}")(*plain, **options)

    # ------------------------------------------------------------------ commands

    def do_node(
        self, key: str, name: str = "", host: str = "", machine: str = "", subcluster: str = "web", seen: str = "0"
    ) -> None:
        """A new node; ``seen``: the highest epoch that it saw."""
        host, machine = host or f"host-{key}", machine or f"machine-{key}"
        identity = ne.Identity(name or key, subcluster, host, machine, f"i-{key}".encode(), "", int(seen))
        self.nodes[key] = NodeSide(key, identity)

    def do_manager(self, name: str, epoch: str = "1", protocol: str = "1") -> None:
        """A new manager."""
        self.managers[name] = ManagerSide(name, int(epoch), int(protocol))

    def do_home(self, manager: str, node: str, subcluster: str) -> None:
        """The repository has a directory for that node there."""
        self.managers[manager].homes[node] = subcluster

    def do_target(self, manager: str, revision: str, serial: str = "") -> None:
        """What every node should run from now on."""
        number = int(revision)
        side = self.managers[manager]
        side.target = Target(Revision(number), commit(number), Serial(int(serial or number)), commit(1))
        check_target(side.target)
        for link in self.connections:
            if link.manager is side and link.manager_core.state is me.State.ATTACHED:
                link.manager_events.append(me.TargetFound(side.target))

    def do_connect(self, key: str, manager: str, cert: str = "", role: str = "node", denied: str = "") -> None:
        """The node opens a stream; nothing is delivered yet."""
        node, side = self.nodes[key], self.managers[manager]
        peer = Peer(role, cert or node.identity.node, f"address-{key}", bool(denied))
        core = me.ManagerAttach(side.name, side.epoch, side.protocol)
        link = Connection(node, side, ne.NodeAttach(node.identity), core, peer)
        link.manager_events.append(me.Started())
        self.connections.append(link)

    def do_fetch(self, key: str, revision: str, *have: str) -> None:
        """The node wants objects."""
        wanted = Fetch(commit(int(revision)), tuple(commit(int(one)) for one in have))
        self._node(self._link(key), ne.FetchBegun(wanted))

    def do_report(self, key: str, revision: str, state: str, error: str = "") -> None:
        """The node says what became of a revision; sent when the stream takes it."""
        link, number = self._link(key), Revision(int(revision))
        report = Report(
            cast("State", state), number, commit(number), number, commit(number), Serial(number), error,
            number=link.node_core.next_number,
        )  # fmt: skip
        self._node(link, ne.ReportQueued(report))

    def do_deny(self, key: str) -> None:
        """The certificate of a live session is denied."""
        message = f"the certificate of {key} was denied"
        self._link(key).manager_events.append(me.Failed("certificate_denied", message))

    def do_run(self) -> None:
        """Until nothing is left to do."""
        for _ in range(RUN_MAX):
            if not any(self._step(link) for link in list(self.connections)):
                return
        raise AssertionError("the sessions do not become quiet")

    def do_cut(self, key: str) -> None:
        """The connection breaks; what was under way is lost, both sides notice."""
        self._close(self._link(key))

    def do_show(self) -> None:
        """What managers know."""
        for side in self.managers.values():
            for node, known in sorted(side.reports.items()):
                self._say(f"{side.name}: {node} {known}{'' if node in side.claims else ', offline'}")

    # ------------------------------------------------------------------ events

    def _link(self, key: str) -> Connection:
        return next(link for link in reversed(self.connections) if link.node.key == key)

    def _step(self, link: Connection) -> bool:
        """One event of a connection; False when there is none."""
        if link.manager_core.state is me.State.ENDED:
            link.manager_events.clear()
            link.to_manager.clear()
        if link.manager_events:
            self._manager(link, link.manager_events.popleft())
        elif link.to_manager:
            self._manager(link, self._received(link, link.to_manager.popleft()))
        elif link.to_node:
            self._node(link, _to_node_event(link.to_node.popleft()))
        elif (report := link.node_core.take_report()) is not None:
            link.to_manager.append(report)
        elif ne.State.ENDED is link.node_core.state or me.State.ENDED is link.manager_core.state:
            self._close(link)
        else:
            return False
        return True

    def _received(self, link: Connection, message: Any) -> me.Event:
        match message:
            case AttachHello():
                other, returned = link.manager.claims.other(message)
                home = link.manager.homes.get(message.node)
                return me.AttachHelloReceived(message, link.peer, other, returned, home)
            case Fetch():
                return me.FetchReceived(message)
            case _:
                return me.ReportReceived(message)

    def _node(self, link: Connection, event: ne.Event) -> None:
        effects = link.node_core.step(event, 0.0)
        self._say(f"{link.node.key}: {show(event)}", effects)
        for effect in effects:
            match effect:
                case ne.SendHello():
                    link.to_manager.append(effect.hello)
                case ne.SendFetch():
                    link.to_manager.append(effect.fetch)

    def _manager(self, link: Connection, event: me.Event) -> None:
        effects = link.manager_core.step(event, 0.0)
        self._say(f"{link.manager.name}: {show(event)}", effects)
        for effect in effects:
            match effect:
                case me.Send():
                    link.to_node.append(effect.message)
                case me.SendRefusal():
                    link.to_node.append(effect.refusal)
                case me.EndOlder():
                    self._enter(link, effect.hello)
                case me.Keep():
                    report = effect.report
                    link.manager.reports[link.manager_core.node] = f"r{report.revision} {report.state}"
                case me.MakePack():
                    want = effect.fetch.want
                    link.to_node += [Pack(want, b"PACK"), Pack(want, b"rest", last=True)]
                    link.manager_events.append(me.PackMade())

    def _enter(self, link: Connection, hello: AttachHello) -> None:
        side = link.manager
        older = side.claims.enter(hello, link.peer.address, link)
        if older is not None:
            older.manager_events.append(me.Failed("superseded", f"a newer session of node {hello.node}"))
        side.reports.setdefault(hello.node, "says nothing yet")
        link.manager_events.append(me.TargetFound(side.target))

    def _close(self, link: Connection) -> None:
        """The stream is over: what was under way is lost."""
        self.connections.remove(link)
        if link.manager_core.state is not me.State.ENDED:
            self._manager(link, me.StreamEnded())
        if link.node_core.state is not ne.State.ENDED:
            self._node(link, ne.StreamEnded())
        link.manager.claims.leave(link.node.identity.node, link)
        self._say(f"{link.node.key} - {link.manager.name}: the stream is over")

    def _say(self, what: str, effects: list[Any] | None = None) -> None:
        self.lines.append(f"  {what}")
        self.lines += [f"      → {show(effect)}" for effect in effects or []]


def _to_node_event(message: Hello | Target | Pack | Reported | Refusal) -> ne.Event:
    match message:
        case Hello():
            return ne.HelloReceived(message)
        case Target():
            return ne.TargetReceived(message)
        case Pack():
            return ne.PackReceived(message)
        case Reported():
            return ne.ReportedReceived(message)
        case Refusal():
            return ne.RefusalReceived(message)
