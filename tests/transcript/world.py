"""Runs the two session cores against each other: no network, no disk, no clock; one event at a time.

A script is lines that begin with ``> ``; what they cause is written below each. ``budget`` stops
a run after so many events, for tests that cut a session at every possible place.
"""

import itertools
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from jlogd.forward import events as ne
from jlogd.forward.messages import (
    Ack,
    Hello,
    NodeHello,
    ProtocolError,
    Refusal,
    Welcome,
)
from jlogd.forward.session import NodeSession
from jlogd.forward.session import State as NodeState
from jlogd.journal.model import Offset
from managerd.ingest import events as me
from managerd.ingest.session import ManagerSession
from managerd.ingest.session import State as ManagerState
from tests.transcript.show import show
from tests.transcript.sides import FRAME_BYTES, Frame, Incarnation, ManagerSide, NodeJournal, NodeSide, snapshot

RUN_MAX = 500  # events of one `run`: a session that never becomes quiet is a bug


class Interrupted(Exception):
    """The next event must not happen."""


@dataclass(slots=True)
class Connection:
    """One stream between a node and a manager."""

    node: NodeSide
    manager: ManagerSide
    node_core: NodeSession
    manager_core: ManagerSession
    subscriber: str
    certificate: str
    role: str
    denied: bool = False
    to_manager: deque[Any] = field(default_factory=deque)
    to_node: deque[Any] = field(default_factory=deque)
    node_events: deque[ne.Event] = field(default_factory=deque)
    manager_events: deque[me.Event] = field(default_factory=deque)
    positions: list[int] | None = None
    freed: int = 0
    refused: str = ""


class World:
    """All nodes, managers and connections of one transcript."""

    def __init__(self, budget: int | None = None) -> None:
        """``budget``: events until ``Interrupted``."""
        self.nodes: dict[str, NodeSide] = {}
        self.managers: dict[str, ManagerSide] = {}
        self.connections: list[Connection] = []
        self.lines: list[str] = []
        self._saved: dict[str, NodeSide | ManagerSide] = {}
        self._nonces = itertools.count(1)
        self._budget = budget

    def command(self, words: list[str]) -> None:
        """One line of a script."""
        plain = [word for word in words[1:] if "=" not in word]
        options = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        getattr(self, f"do_{words[0]}")(*plain, **options)

    # ------------------------------------------------------------------ commands

    def do_node(self, key: str, name: str = "", host: str = "", machine: str = "", instance: str = "") -> None:
        """A new node."""
        self.nodes[key] = NodeSide(
            key, name or key, host or f"host-{key}", machine or f"machine-{key}", instance or f"i-{key}"
        )

    def do_manager(
        self,
        name: str,
        subscriber: str = "",
        epoch: str = "1",
        window: str = "1000",
        protocol: str = "1",
        words: str = "sources",
    ) -> None:
        """A new manager, or the same one started again with another epoch."""
        old = self.managers.get(name)
        archive = old.archive if old else {}
        side = ManagerSide(name, subscriber or name, int(epoch), int(window), int(protocol), archive)
        side.words = tuple(words.split())
        self.managers[name] = side

    def do_write(self, key: str, journal: str, frames: str = "1") -> None:
        """Frames on the node's disk."""
        kept = self._journal(key, journal)
        if kept.asks:
            return  # nothing is read before the positions are there
        for _ in range(int(frames)):
            kept.write(f"{key}-{kept.opened[1]}")

    def do_ask(self, key: str, journal: str) -> None:
        """A new journal that waits for positions from an archive."""
        self._journal(key, journal).asks = True

    def _journal(self, key: str, name: str) -> NodeJournal:
        """Made when it is not there."""
        journals = self.nodes[key].journals
        if name not in journals:
            journals[name] = NodeJournal(f"{key}.{name}".encode().ljust(16, b"."))
            journals[name].opened = (1, next(self._nonces))
        return journals[name]

    def do_reopen(self, key: str, journal: str) -> None:
        """The node's process starts again: a new term."""
        side = self.nodes[key].journals[journal]
        side.opened = (side.opened[0] + 1, next(self._nonces))

    def do_drop(self, key: str, journal: str, first: str) -> None:
        """The node keeps nothing below ``first``."""
        self.nodes[key].journals[journal].first = int(first)

    def do_connect(
        self, key: str, manager: str, subscriber: str = "", cert: str = "", role: str = "node", denied: str = ""
    ) -> None:
        """The node opens a stream; nothing is delivered yet."""
        node, side = self.nodes[key], self.managers[manager]
        wanted = subscriber or side.subscriber
        identity = ne.Identity(
            node.name, node.subcluster, wanted, node.host, node.machine_id, node.instance.encode(),
            node.epochs.get(wanted, 0),
        )  # fmt: skip
        core = ManagerSession(side.name, side.subscriber, side.epoch, side.protocol)
        link = Connection(node, side, NodeSession(identity), core, wanted, cert or node.name, role, bool(denied))
        link.manager_events.append(me.Started())
        self.connections.append(link)

    def do_run(self) -> None:
        """Until nothing is left to do."""
        for _ in range(RUN_MAX):
            if not self._step():
                return
        raise AssertionError("the sessions do not become quiet")

    def do_step(self, count: str) -> None:
        """So many events."""
        for _ in range(int(count)):
            assert self._step(), "nothing is left to do"

    def do_cut(self, key: str = "") -> None:
        """Connections break; what was under way is lost, both sides notice."""
        for link in [link for link in self.connections if key in ("", link.node.key)]:
            self._close(link)

    def do_vanish(self, key: str) -> None:
        """The node's machine is gone and nobody told the manager: it still counts the session as live."""
        self.connections = [link for link in self.connections if link.node.key != key]

    def do_kill(self, who: str) -> None:
        """Kill -9."""
        for link in [link for link in self.connections if who in (link.node.key, link.manager.name)]:
            self._close(link)
        if who in self.managers:
            self.managers[who].forget()

    def do_save(self, who: str) -> None:
        """A snapshot of the disk."""
        self._saved[who] = snapshot(self.nodes.get(who) or self.managers[who])

    def do_restore(self, who: str, onto: str = "", host: str = "", machine: str = "", running: str = "") -> None:
        """The disk as it was saved; ``onto``: a clone; ``running``: with its memory, so the term goes on."""
        side = snapshot(self._saved[who])
        if isinstance(side, ManagerSide):
            side.epoch = self.managers[who].epoch + 1
            self.managers[who] = side
            return
        side.key = onto or who
        side.host, side.machine_id = host or side.host, machine or side.machine_id
        side.instance = f"i-{side.key}-again"
        self.nodes[side.key] = side
        for journal in side.journals if not running else ():
            self.do_reopen(side.key, journal)

    def do_lose(self, manager: str) -> None:
        """The manager's disk is gone."""
        self.managers[manager].archive.clear()

    def resume(self, key: str, manager: str, how: str) -> None:
        """After an interruption: ``cut``, ``kill node`` or ``kill manager``, then connect again and run."""
        self._budget = None
        side = self.managers[manager]
        if how == "kill manager":
            self.do_kill(manager)
            side.epoch = max(side.epoch, *self.nodes[key].epochs.values(), 0) + 1
        elif how == "kill node":
            self.do_kill(key)
            for journal in self.nodes[key].journals:
                self.do_reopen(key, journal)
                self.do_write(key, journal)
        self.do_cut()
        self.do_connect(key, manager)
        self.do_run()

    def do_show(self) -> None:
        """Checkpoints and archives."""
        for key, node in self.nodes.items():
            for (journal, subscriber), known in sorted(node.checkpoints.items()):
                end = node.journals[journal].end
                self._say(f"{key}/{journal}: end {end}, checkpoint of {subscriber} {known.checkpoint}")
        for manager in self.managers.values():
            for (name, journal), line in sorted(manager.archive.items()):
                for number, one in enumerate(line, 1):
                    texts = " ".join(frame.text for frame in one.durable_frames)
                    self._say(f"{manager.name}: {name}/{journal} {number:04d} [{one.first}, {one.end}) {texts}")

    # ------------------------------------------------------------------ events

    def _step(self) -> bool:
        """One event somewhere, in a fixed order of preference; False when there is none."""
        for link in self.connections:
            action = self._next(link)
            if action is not None:
                if self._budget is not None:
                    if self._budget == 0:
                        raise Interrupted
                    self._budget -= 1
                action()
                return True
        return False

    def _next(self, link: Connection) -> Any:
        if link.manager_core.state is ManagerState.ENDED:
            link.manager_events.clear()
            link.to_manager.clear()
        if link.manager_events:
            return lambda: self._manager(link, link.manager_events.popleft())
        if link.node_events:
            return lambda: self._node(link, link.node_events.popleft())
        if link.to_manager:
            return lambda: self._manager(link, self._received(link, link.to_manager.popleft()))
        if link.to_node:
            return lambda: self._node(link, _to_node_event(link.to_node.popleft()))
        if link.positions is not None and link.node_core.credit_left > 0 and self._ready(link) is not None:
            return lambda: self._send_frame(link)
        if link.manager_core.state is ManagerState.STREAMING and link.manager_core.in_flight:
            return lambda: self._commit(link)
        return None

    def _ready(self, link: Connection) -> int | None:
        names = sorted(link.node.journals)
        positions = link.positions or []
        return next((i for i, at in enumerate(positions) if at < link.node.journals[names[i]].end), None)

    def _send_frame(self, link: Connection) -> None:
        index = self._ready(link)
        assert index is not None
        assert link.positions is not None
        frame = link.node.journals[sorted(link.node.journals)[index]].frame_at(link.positions[index])
        assert frame.first == link.positions[index], "the replica's end is no border"
        link.positions[index] = frame.end
        link.to_manager.append((index, frame))
        self._node(link, ne.FramesSent(FRAME_BYTES, ((index, Offset(frame.end)),)))

    def _commit(self, link: Connection) -> None:
        link.manager.commit()
        names = sorted(link.node.journals)
        ends = []
        for index, name in enumerate(names):
            ends.append((index, Offset(link.manager.archive[link.node.name, name][-1].end)))
        freed = link.manager_core.in_flight
        self._manager(link, me.Committed(tuple(ends), freed, link.manager.window))

    def _received(self, link: Connection, message: Any) -> me.Event:
        if isinstance(message, NodeHello):
            known = link.manager.live.get(message.node)
            other = None
            if known is not None:
                there = known[1]
                other = me.Other(there.host, there.machine_id, there.instance, known[2])
            returned = message.instance in link.manager.superseded.get(message.node, set())
            name = link.certificate if link.role else ""
            peer = me.Peer(link.role, name, f"address-{link.node.key}", link.denied)
            return me.NodeHelloReceived(message, peer, other, returned)
        if isinstance(message, tuple) and len(message) == 2 and isinstance(message[1], Frame):
            index, frame = message
            replica = link.manager.archive[link.node.name, sorted(link.node.journals)[index]][-1]
            assert frame.first == replica.append_end, "compare-and-set"
            replica.frames.append(frame)
            return me.FramesReceived(FRAME_BYTES)
        return me.ResumeReceived(message)

    def _node(self, link: Connection, event: ne.Event) -> None:
        try:
            effects = link.node_core.step(event, 0.0)
        except ProtocolError as error:
            self._say(f"{link.node.key}: {show(event)} !! {error}")
            self._close(link)
            return
        self._say(f"{link.node.key}: {show(event)}", effects)
        for effect in effects:
            self._node_effect(link, effect)

    def _node_effect(self, link: Connection, effect: ne.Effect) -> None:
        node = link.node
        match effect:
            case ne.StoreEpoch():
                node.epochs[effect.subscriber] = effect.epoch
                link.node_events.append(ne.EpochStored(node.offers(link.subscriber)))
            case ne.SendHello():
                link.to_manager.append(effect.hello)
            case ne.SendResume():
                link.to_manager.append(effect.resumes)
            case ne.GivenBack():
                journal = node.journals[sorted(node.journals)[effect.journal]]
                journal.asks = False
                journal.position = max((one.position for one in effect.sources or ()), default=0)
            case ne.LookUp():
                link.node_events.append(ne.HistoryFound(tuple(node.locate(place) for place in effect.places)))
            case ne.MoveBack():
                known = node.checkpoint(sorted(node.journals)[effect.journal], link.subscriber)
                known.checkpoint = effect.offset
                known.origin = min(known.origin, effect.offset)
            case ne.Advance():
                self._advance(link, effect)
            case ne.Stream():
                link.positions = list(effect.starts)
            case ne.Refused():
                link.refused = effect.reason
                if link.node_core.state is NodeState.ENDED or not link.to_manager:
                    self._close(link)

    def _advance(self, link: Connection, effect: ne.Advance) -> None:
        name = sorted(link.node.journals)[effect.journal]
        archived = link.manager.main_line(link.node.name, name)
        assert archived, "acknowledged, and nothing is durable"
        assert archived[-1].end >= effect.offset, "acknowledged beyond what is durable"
        known = link.node.checkpoint(name, link.subscriber)
        known.checkpoint, known.acknowledged = max(known.checkpoint, effect.offset), True

    def _manager(self, link: Connection, event: me.Event) -> None:
        try:
            effects = link.manager_core.step(event, 0.0)
        except ProtocolError as error:
            self._say(f"{link.manager.name}: {show(event)} !! {error}")
            effects = link.manager_core.step(me.Failed("protocol", str(error)), 0.0)
        self._say(f"{link.manager.name}: {show(event)}", effects)
        for effect in effects:
            self._manager_effect(link, effect)

    def _manager_effect(self, link: Connection, effect: me.Effect) -> None:
        manager = link.manager
        match effect:
            case me.SendHello():
                link.to_node.append(replace(effect.hello, capabilities=manager.words))
            case me.SendWelcome():
                link.to_node.append(effect.welcome)
            case me.SendAck():
                link.to_node.append(effect.ack)
            case me.SendRefusal():
                link.to_node.append(effect.refusal)
            case me.EndOlder():
                self._supersede(link, effect.node)
            case me.FindReplicas():
                link.manager_events.append(me.ReplicasFound(manager.find(effect), manager.window))
            case me.Begin():
                ends = self._begin(link, effect)
                link.manager_events.append(me.Begun(ends))
            case me.End():
                if manager.live.get(link.manager_core.node, (None,))[0] is link.manager_core:
                    del manager.live[link.manager_core.node]

    def _supersede(self, link: Connection, node: str) -> None:
        manager, hello = link.manager, link.manager_core.hello
        assert hello is not None
        known = manager.live.pop(node, None)
        manager.live[node] = (link.manager_core, hello, f"address-{link.node.key}")
        older = next((one for one in self.connections if known and one.manager_core is known[0]), None)
        if known is not None and known[1].instance != hello.instance:
            manager.superseded.setdefault(node, set()).add(known[1].instance)
        if older is not None:
            self._manager(older, me.Failed("superseded", f"a newer session of node {node} came"))
        manager.commit()  # what the older session sent is on disk before anything is looked up
        link.manager_events.append(me.OlderEnded())

    def _begin(self, link: Connection, effect: me.Begin) -> tuple[Offset, ...]:
        manager, node = link.manager, link.node.name
        for new in effect.incarnations:
            base = new.resume
            made = Incarnation(new.offer.journal_id, base.first, base.chain or bytes(16), list(base.terms))
            manager.archive.setdefault((node, new.offer.journal), []).append(made)
        return tuple(Offset(manager.archive[node, name][-1].end) for name in sorted(link.node.journals))

    def _close(self, link: Connection) -> None:
        """The stream is over: what was under way is lost."""
        if link not in self.connections:
            return
        self.connections.remove(link)
        if link.manager_core.state is not ManagerState.ENDED:
            for effect in link.manager_core.step(me.StreamEnded(), 0.0):
                self._manager_effect(link, effect)
        self._say(f"{link.node.key} - {link.manager.name}: the stream is over")

    def _say(self, what: str, effects: list[Any] | None = None) -> None:
        self.lines.append(f"  {what}")
        self.lines += [f"      → {show(effect)}" for effect in effects or []]


def _to_node_event(message: Hello | Welcome | Ack | Refusal) -> ne.Event:
    match message:
        case Hello():
            return ne.HelloReceived(message)
        case Welcome():
            return ne.WelcomeReceived(message)
        case Ack():
            return ne.AckReceived(message)
        case Refusal():
            return ne.RefusalReceived(message)
