"""Commits, holds, rollouts, deaths and late confirmations on a real repository, in any order.

What the model knows: the contents of ``web/`` that everybody may have (``approved``): what was there at first, what a
rollout brought to its end, and what was changed while nothing asked for rollouts.
"""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jlogd.attach.messages import Report
from jlogd.confrepo.model import Changes, Commit, Entry, File, Serial
from jlogd.confrepo.repository import CONFIRMED, MAIN, ROLLOUT, Repository
from jlogd.runtime.clock import ManualClock
from jlogd.runtime.errors import RefusedError
from managerd.ecconfigd import holding, planning
from managerd.ecconfigd import rollout as core
from managerd.ecconfigd.conductor import _settled
from managerd.ecconfigd.holding import Line
from managerd.ecconfigd.rollout import Document, Fleet
from managerd.ecconfigd.targets import Picture, take
from tests.support.revisions import put, store

NODES = [f"web{number}" for number in range(6)]
POLICY = '[[require]]\npaths = ["web/**"]\nstages = ["1", "50%"]\nhold = "10s"\nmax_failed = 1\n'


class RolloutMachine(RuleBasedStateMachine):
    """One writer, and what its nodes are told."""

    @initialize()
    def begin(self) -> None:
        """Everybody runs r1."""
        self.root = Path(tempfile.mkdtemp())
        self.repo = Repository.open(self.root / "config.git")
        self.clock = ManualClock()
        self.told: dict[str, tuple[int, str]] = {}
        self.picture: Picture | None = None
        self.number = 0
        self.died = False  # between a hold and main: what is held then is decided anew with the next commit
        first: Changes = {
            "global/rollout.toml": File(POLICY.encode()),
            "web/default/x": File(b"0"),
            "db/default/x": File(b"0"),
        }
        self.advance(store(self.repo, first, parent=None))
        self.confirm()
        self.approved = [self.web(self.head())]
        self.fleet = Fleet(self.clock.monotonic_s())
        for node in NODES:
            self.fleet.attached(node, self.clock.monotonic_s())

    def teardown(self) -> None:
        self.repo.close()
        shutil.rmtree(self.root)

    # ------------------------------------------------------------------ people

    @rule(where=st.sampled_from(["web/default/x", "db/default/x", "web/web1/x"]), dies=st.booleans())
    def commit(self, where: str, dies: bool) -> None:
        """One file changes; the process may die between the hold and main."""
        self.number += 1
        self.change(put(where, str(self.number)), dies=dies and self.number % 3 == 0)

    @rule()
    def undo(self) -> None:
        """Below web everything is as nodes have it."""
        assert self.picture is not None
        now, then = self.web(self.head()), self.web(self.repo.commit(self.picture.baseline.id))
        changes: dict[str, File | None] = dict.fromkeys(now.keys() - then.keys())
        for path, entry in then.items():
            if now.get(path) != entry:
                changes[path] = File(self.repo.content(entry.id), entry.mode)
        if changes:
            self.change(changes)

    @rule(asks=st.booleans())
    def change_policy(self, asks: bool) -> None:
        """With and without the requirement."""
        self.number += 1
        self.change(put("global/rollout.toml", (POLICY if asks else "") + f"# {self.number}\n"))

    @rule()
    def confirm(self) -> None:
        """Enough managers have head."""
        head = self.head()
        if self.repo.ref(CONFIRMED) != head.id:
            self.repo.advance({CONFIRMED: (self.repo.ref(CONFIRMED), head.id)})

    @rule(back=st.integers(0, 2), steps=st.integers(0, 4), confirmed=st.booleans())
    def start(self, back: int, steps: int, confirmed: bool) -> None:
        """A rollout of one of the newest revisions, if that may be; it goes some way."""
        if confirmed:
            self.commit("web/default/x", dies=False)
            self.confirm()
        self.start_one(back)
        for _ in range(steps):
            self.nodes_get_what_they_may()
            self.all_apply()

    def start_one(self, back: int) -> None:
        line = self.line()
        revision = f"r{max(1, self.head().revision - back)}"
        try:
            plan = planning.plan(self.repo, line.document, planning.StartRequest(revision), "operator:alice", [])
            serial = Serial(holding.confirmed_revision(self.repo) + line.length + 1)
            self.save(line, core.start(line.document, plan, self.fleet, serial=serial, now_ns=self.clock.wall_ns()))
        except RefusedError:
            pass

    @precondition(lambda self: self.active())
    @rule(what=st.sampled_from(["pause", "resume", "abort"]))
    def order(self, what: core.Order) -> None:
        """As it comes."""
        line = self.line()
        with contextlib.suppress(RefusedError):
            self.save(line, core.order(line.document, what, "operator:alice", self.clock.wall_ns()))

    # ------------------------------------------------------------------ nodes and time

    @rule(node=st.sampled_from(NODES), good=st.sampled_from([True, True, True, False]))
    def report(self, node: str, good: bool) -> None:
        """It took what it was told, or not."""
        assert self.picture is not None
        target = self.picture.target(node)
        state = "applied" if good else "rolled_back"
        said = Report(state, target.revision, target.id, target.revision, target.id, target.serial, error="no")  # type: ignore[arg-type]
        self.fleet.reported(node, said, self.clock.monotonic_s())
        self.look()

    @rule()
    def all_apply(self) -> None:
        """As in a good rollout."""
        for node in NODES:
            self.report(node, good=True)
        self.clock.advance(10)
        self.look()

    @rule(node=st.sampled_from(NODES))
    def leave(self, node: str) -> None:
        """It is away for a moment, or for ever."""
        self.fleet.detached(node, self.clock.monotonic_s())
        self.look()

    @rule(node=st.sampled_from(NODES))
    def come(self, node: str) -> None:
        """It is back."""
        self.fleet.attached(node, self.clock.monotonic_s())
        self.look()

    @rule(seconds=st.sampled_from([1, 10, 70, 1000]))
    def wait(self, seconds: int) -> None:
        """Time goes by."""
        self.clock.advance(seconds)
        self.look()

    @rule()
    def restart(self) -> None:
        """The manager forgets what it saw, and nodes come back."""
        self.repo.close()
        self.repo = Repository.open(self.root / "config.git")
        self.fleet = Fleet(self.clock.monotonic_s())
        for node in NODES:
            self.fleet.attached(node, self.clock.monotonic_s())
        self.look()

    # ------------------------------------------------------------------ what must hold

    @invariant()
    def nodes_get_what_they_may(self) -> None:
        """Serials grow, one serial says one thing, and nothing below web comes unasked."""
        picture = take(self.repo, self.picture)
        assert picture is not None
        assert self.picture is None or picture.serial >= self.picture.serial
        assert take(self.repo) == picture, "the same refs give the same picture"
        self.picture = picture
        assert self.web(self.repo.commit(picture.baseline.id)) in self.approved
        self.nothing_is_held_in_vain(picture)
        trial = picture.trial
        for node in NODES:
            target = picture.target(node)
            serial, commit = self.told.get(node, (0, ""))
            assert target.serial > serial or target.id == commit, f"{node} is told two things under {serial}"
            self.told[node] = target.serial, target.id
            if target.id != picture.baseline.id:
                assert trial is not None
                assert target.id == trial.target.id
                assert node not in trial.failed
        if trial is not None:
            assert len(trial.failed) <= trial.max_failed
            assert trial.baseline == picture.baseline

    def nothing_is_held_in_vain(self, picture: Picture) -> None:
        """What differs in nothing below web reaches everybody."""
        head = self.head()
        same = self.web(head) == self.web(self.repo.commit(picture.baseline.id))
        if same and not self.died and picture.trial is None and picture.confirmed.id == head.id:
            assert picture.baseline.id == head.id

    # ------------------------------------------------------------------ as the manager does it

    def head(self) -> Commit:
        head = self.repo.head()
        assert head is not None
        return head

    def line(self) -> Line:
        return holding.load(self.repo, self.repo.ref(ROLLOUT))

    def active(self) -> bool:
        rollout = self.line().document.rollout
        return rollout is not None and rollout.active

    def web(self, commit: Commit) -> dict[str, Entry]:
        return self.repo.files(commit, "web")

    def advance(self, commit_id: str) -> None:
        self.repo.advance({MAIN: (self.repo.ref(MAIN), commit_id)})  # type: ignore[dict-item]

    def change(self, changes: Changes, *, dies: bool = False) -> None:
        head = self.head()
        asks = holding.policy_of(self.repo, head).required(["web/x"])
        commit = self.repo.commit(store(self.repo, changes, f"change {self.number}", parent=head))
        held = holding.hold(self.repo, commit, list(changes))
        self.died = dies
        if dies:
            return
        self.advance(commit.id)
        if not asks and self.web(head) in self.approved:
            self.approved.append(self.web(commit))  # nothing asks for a rollout of web, and nothing was to be held
        assert held is None or "rollout" in held

    def save(self, line: Line, document: Document) -> None:
        assert document.rollout is not None
        if document.rollout.state == "done":
            self.approved.append(self.web(self.repo.commit(document.rollout.target.id)))
        document = _settled(self.repo, line.document, document)
        holding.save(self.repo, line, document, author="manager:m1", message="state", time_s=1)

    def look(self) -> None:
        line = self.line()
        now_s, now_ns = self.clock.monotonic_s(), self.clock.wall_ns()
        document = core.decide(line.document, self.fleet, now_s, now_ns)
        if document is not line.document:
            self.save(line, document)


TestRolloutMachine = RolloutMachine.TestCase
TestRolloutMachine.settings = settings(
    max_examples=500 if os.environ.get("JLOGD_LONG") else 15,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
