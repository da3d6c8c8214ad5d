"""What a node follows, and what it does about it: each transition, and who is to blame when it goes wrong."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jlogd.attach.aftermath import WATCH_S
from jlogd.attach.choose import FOREIGN_WAIT_S, LOWER_WAIT_S, Chooser
from jlogd.attach.decide import ATTEMPTS_MAX, HEALTH_EVERY_S, SKIPPED_MAX, Decider, Phase
from jlogd.attach.events import (
    Activate,
    Activated,
    Bring,
    Brought,
    CheckHealth,
    Due,
    Effect,
    Event,
    GoBack,
    GoneBack,
    HealthChecked,
    Heard,
    Looked,
    NotActivated,
    NotBrought,
    Remember,
    Retry,
    Say,
    Tidy,
)
from jlogd.attach.memory import FAILED_MAX, FORGIVEN_MAX, Failed, Memory, Point, Trial, from_document, to_document
from jlogd.attach.messages import Target
from jlogd.confrepo.model import CommitId, Revision, Serial
from jlogd.runtime.errors import DamageError

CONFIRM_S, RETRY_MAX_S = 60.0, 60.0
ROOT, OTHER_ROOT = CommitId("a" * 40), CommitId("b" * 40)


def point(number: int) -> Point:
    return Point(Revision(number), CommitId(f"{number:040x}"))


def target(number: int, serial: int = 0, repository: CommitId = ROOT, **more: Any) -> Target:
    return Target(Revision(number), point(number).id, Serial(serial or number), repository, **more)


class Node:
    """A decider with a clock."""

    def __init__(self, memory: Memory | None = None) -> None:
        self.now_s = 100.0
        self.decider = Decider(memory or Memory(), confirm_s=CONFIRM_S, retry_max_s=RETRY_MAX_S)

    @property
    def memory(self) -> Memory:
        return self.decider.memory

    @property
    def phase(self) -> Phase:
        return self.decider.phase

    def begin(self, current: Point | None) -> list[Effect]:
        return self.decider.begin(current, self.now_s, int(self.now_s * 1e9))

    def step(self, event: Event, after_s: float = 0.0) -> list[Effect]:
        self.now_s += after_s
        return self.decider.step(event, self.now_s, int(self.now_s * 1e9))

    def asked(self, *targets: Target | None, managers: int = 1, after_s: float = 0.0) -> list[Effect]:
        """Attached managers ask for these; ``managers``: how many there are."""
        names = [f"m{number}" for number in range(max(managers, len(targets)))]
        return self.step(Looked(dict(zip(names, targets, strict=False)), names), after_s)

    def runs(self, number: int, **more: Any) -> "Node":
        """Bring, apply and confirm."""
        assert self.asked(target(number, **more))[-1] == Bring(target(number, **more))
        assert isinstance(self.step(Brought())[-1], Activate)
        assert self.step(Activated()) == [Say(confirm=True)]
        assert self.step(Heard())[:3] == [Remember(later=True), Say(), Tidy()]
        assert self.memory.running == point(number)
        return self


def said(node: Node) -> tuple[str, int, str]:
    memory = node.memory
    return memory.state, memory.about.revision if memory.about else 0, memory.error


def held(node: Node) -> tuple[Point | None, Point | None, Trial | None]:
    """What runs, what ran before, what is on trial."""
    return node.memory.running, node.memory.before, node.memory.trial


# ---------------------------------------------------------------------- from a target to a confirmed revision


def test_a_revision_is_brought_applied_and_confirmed() -> None:
    node = Node()
    assert node.begin(None) == []
    assert node.asked(target(1)) == [Say(), Bring(target(1))]
    assert said(node) == ("pending", 1, "")
    trial = Trial(point(1), Serial(1))
    assert node.step(Brought()) == [Remember(first=True), Activate(trial, None)]
    assert held(node) == (None, None, trial)
    assert node.decider.running == point(1)
    assert node.step(Activated()) == [Say(confirm=True)]
    assert node.decider.due_s == node.now_s + CONFIRM_S
    assert said(node) == ("pending", 1, "")
    assert node.step(Heard()) == [Remember(later=True), Say(), Tidy()]
    assert said(node) == ("applied", 1, "")
    assert held(node) == (point(1), None, None)
    assert node.runs(2).memory.before == point(1)


def test_nothing_asked_is_nothing_done() -> None:
    node = Node()
    assert node.asked(None) == []
    assert node.asked() == []
    assert node.step(Due(), 1000) == []
    assert node.memory == Memory()


def test_the_same_revision_under_another_serial_is_only_adopted() -> None:
    node = Node().runs(5)
    assert node.asked(target(5)) == []
    assert node.asked(target(5, 9)) == [Remember(), Say()]
    assert (node.memory.followed, node.memory.serial, said(node)) == (9, 9, ("applied", 5, ""))


def test_the_same_revision_under_another_serial_does_not_begin_its_trial_again() -> None:
    node = Node().runs(4)
    node.asked(target(5))
    node.step(Brought())
    node.step(Activated())
    assert node.asked(target(5, 8), after_s=CONFIRM_S - 1) == []
    assert node.memory.trial is not None
    assert node.memory.trial.serial == 8
    assert node.step(Due(), 1) == [GoBack(point(4), point(5))]
    assert node.step(GoneBack())[0] == Remember()
    assert node.asked(target(5, 8)) == []  # it failed under this one


def test_a_newer_revision_waits_until_the_one_under_way_is_decided() -> None:
    node = Node().runs(1)
    node.asked(target(2))
    node.step(Brought())
    node.step(Activated())
    assert node.asked(target(3)) == []
    assert node.step(Heard()) == [Remember(later=True), Say(), Tidy(), Say(), Bring(target(3))]


def test_what_is_old_by_the_time_it_is_here_is_passed_over_but_not_for_ever() -> None:
    node = Node().runs(1)
    node.asked(target(2))
    for number in range(3, 3 + SKIPPED_MAX):
        assert node.asked(target(number)) == []
        assert node.step(Brought()) == [Say(), Bring(target(number))]
    assert node.asked(target(99)) == []
    assert node.step(Brought())[-1] == Activate(Trial(point(2 + SKIPPED_MAX), Serial(2 + SKIPPED_MAX)), point(1))


def test_a_revision_that_is_called_back_while_it_is_brought_is_not_applied() -> None:
    node = Node().runs(1)
    node.asked(target(2))
    node.asked(target(1, 3))
    assert node.step(Brought()) == [Remember(), Say()]
    assert said(node) == ("applied", 1, "")


# ---------------------------------------------------------------------- what does not work


def test_what_may_go_away_is_tried_again_with_growing_pauses() -> None:
    node = Node().runs(1)
    assert node.asked(target(2)) == [Say(), Bring(target(2))]
    pauses = []
    for _ in range(9):
        assert node.step(NotBrought("disk full")) == [Say()]
        assert said(node) == ("pending", 2, "disk full")
        assert node.decider.due_s is not None
        pause_s = node.decider.due_s - node.now_s
        pauses.append(pause_s)
        assert node.asked(target(2), after_s=pause_s / 2) == []
        assert node.step(Due(), pause_s / 2) == [Bring(target(2))]
        assert said(node) == ("pending", 2, "disk full")
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert node.step(NotBrought("disk full")) == [Say()]
    assert node.step(Retry()) == [Bring(target(2))]
    node.step(Brought())
    node.step(Activated())
    node.step(Heard())
    assert said(node) == ("applied", 2, "")


def test_a_new_revision_does_not_wait_for_the_pause_of_another() -> None:
    node = Node().runs(1)
    node.asked(target(2))
    node.step(NotBrought("disk full"))
    assert node.asked(target(3)) == [Say(), Bring(target(3))]


def test_what_a_person_must_act_on_is_not_tried_again_until_another_serial_asks() -> None:
    node = Node().runs(1)
    node.asked(target(2))
    assert node.step(NotBrought("not signed", "refused", final=True)) == [Remember(), Say()]
    assert said(node) == ("refused", 2, "not signed")
    assert node.asked(target(2)) == []
    assert node.step(Due(), 10_000) == node.step(Retry()) == []
    assert node.memory.running == point(1)
    assert node.asked(target(2, 7)) == [Say(), Bring(target(2, 7))]


def test_a_memory_that_cannot_be_written_applies_nothing() -> None:
    node = Node().runs(1)
    node.asked(target(2))
    node.step(Brought())
    assert node.step(NotActivated("disk full", swapped=False)) == [Say()]
    assert (node.memory.trial, node.memory.running) == (None, point(1))
    assert said(node) == ("pending", 2, "disk full")
    assert node.step(Due(), 1) == [Bring(target(2))]


def test_a_reload_command_that_fails_takes_the_revision_back() -> None:
    node = Node().runs(1)
    node.asked(target(2))
    node.step(Brought())
    assert node.step(NotActivated("reload: exit 1")) == [GoBack(point(1), point(2))]
    assert node.decider.running == point(1)
    assert node.step(GoneBack()) == [Remember(), Say()]
    assert said(node) == ("rolled_back", 2, "reload: exit 1")
    assert (node.memory.running, node.memory.trial) == (point(1), None)
    assert node.asked(target(2)) == []
    assert node.asked(target(1, 3)) == [Remember(), Say()]
    assert said(node) == ("applied", 1, "")
    assert node.asked(target(2, 4))[-1] == Bring(target(2, 4))


def test_a_disk_that_fails_in_the_swap_is_not_the_revision_s_fault() -> None:
    node = Node().runs(1)
    node.asked(target(2))
    node.step(Brought())
    assert node.step(NotActivated("I/O error", again=True)) == [GoBack(point(1), point(2))]
    assert node.step(GoneBack()) == [Remember(), Say()]
    assert said(node) == ("pending", 2, "I/O error")
    assert held(node) == (point(1), None, None)
    assert node.step(Due(), 1) == [Bring(target(2))]


def test_the_way_back_tells_what_does_not_work_there_either() -> None:
    node = Node().runs(1)
    node.asked(target(2))
    node.step(Brought())
    node.step(NotActivated("exit 1"))
    node.step(GoneBack("exit 2"))
    assert said(node) == ("rolled_back", 2, "exit 1; going back: exit 2")


def test_the_first_revision_of_all_goes_back_to_none() -> None:
    node = Node()
    node.asked(target(1))
    node.step(Brought())
    assert node.step(NotActivated("exit 1")) == [GoBack(None, point(1))]
    node.step(GoneBack())
    assert (node.memory.running, said(node)) == (None, ("rolled_back", 1, "exit 1"))


# ---------------------------------------------------------------------- cut off


def cut_off(node: Node, serial: int = 2) -> None:
    """Revision 2 is applied, and no manager hears of it."""
    assert node.asked(target(2, serial))[-1] == Bring(target(2, serial))
    node.step(Brought())
    assert node.step(Activated()) == [Say(confirm=True)]
    assert node.asked() == []
    assert node.step(Due(), CONFIRM_S - 1) == []
    assert node.step(Due(), 1) == [GoBack(point(1), point(2))]
    assert node.step(GoneBack()) == [Remember(), Say(confirm=True)]
    assert said(node) == ("rolled_back", 2, "no manager heard from this node within 60 s")


def test_a_revision_that_cuts_the_node_off_is_taken_back_for_good() -> None:
    """A manager hears from the node once the old one runs again: the revision is to blame."""
    node = Node().runs(1)
    cut_off(node)
    assert node.asked(target(2)) == []
    assert node.step(Heard()) == []
    assert node.step(Due(), 10 * CONFIRM_S) == node.asked(target(2)) == []
    assert node.asked(target(3)) == [Say(), Bring(target(3))]


def test_managers_that_were_away_are_not_the_revision_s_fault_a_few_times() -> None:
    """Nobody hears from the node with the old one either: it is tried again when somebody asks for it."""
    node = Node().runs(1)
    for _ in range(FORGIVEN_MAX):
        cut_off(node)
        assert node.step(Due(), CONFIRM_S) == [Remember()]
    cut_off(node)
    node.step(Due(), CONFIRM_S)
    assert node.asked(target(2)) == []
    node = Node(node.memory)
    assert node.asked(target(2)) == []
    assert node.asked(target(2, 5))[-1] == Bring(target(2, 5))


# ---------------------------------------------------------------------- cut off, after it was confirmed


def test_a_cut_soon_after_the_confirmation_is_taken_back() -> None:
    """Nobody is attached for as long as an unconfirmed revision would have had; the one before is kept until then."""
    node = Node().runs(1).runs(2)
    assert point(1) in node.decider.needed
    assert node.asked(after_s=WATCH_S - 1) == []
    assert node.decider.due_s == node.now_s + CONFIRM_S
    assert node.step(Due(), CONFIRM_S - 1) == []
    assert node.step(Due(), 1) == [Remember(), GoBack(point(1), point(2))]
    assert held(node)[::2] == (point(1), Trial(point(2), Serial(2), attempts=ATTEMPTS_MAX))
    assert node.step(GoneBack()) == [Remember(), Say(confirm=True)]
    assert said(node)[:2] == ("rolled_back", 2)
    assert "no manager could be reached any more" in said(node)[2]
    assert node.step(Heard()) == node.asked(target(2)) == []
    assert node.asked(target(3))[-1] == Bring(target(3))


def test_managers_that_come_back_in_time_leave_it_alone() -> None:
    """Each time that they go; and what is lost later is nobody's fault."""
    node = Node().runs(1).runs(2)
    for _ in range(2):
        assert node.asked(after_s=1) == []
        assert node.step(Due(), CONFIRM_S / 10) == []
        assert node.asked(target(2), after_s=1) == []
    assert node.asked(target(2), after_s=WATCH_S) == []
    assert node.decider.needed == [point(2)]
    assert node.asked(after_s=1) == []
    assert node.step(Due(), 10 * CONFIRM_S) == []
    assert said(node)[:2] == ("applied", 2)


def test_the_next_revision_is_judged_by_itself() -> None:
    """A trial that is under way has its own time."""
    node = Node().runs(1).runs(2)
    node.asked(target(3), after_s=1)
    node.step(Brought())
    assert node.step(Activated()) == [Say(confirm=True)]
    assert node.asked(after_s=1) == []
    assert node.step(Due(), CONFIRM_S) == [GoBack(point(2), point(3))]


# ---------------------------------------------------------------------- health


def healthy(node: Node) -> Trial:
    trial = Trial(point(2), Serial(2), ("bin/check",), 25.0)
    assert node.asked(target(2, health=("bin/check",), trial_s=25.0))[0] == Say()
    assert node.step(Brought())[-1] == Activate(trial, point(1))
    node.step(Activated())
    assert node.step(Heard()) == [Remember(later=True), Say(), Tidy()]
    assert (node.phase, said(node)) == (Phase.PROBATION, ("applied", 2, ""))
    return trial


def test_health_is_checked_again_and_again_until_the_trial_is_over() -> None:
    node = Node().runs(1)
    trial = healthy(node)
    for _ in range(2):
        assert node.step(Due(), HEALTH_EVERY_S - 1) == []
        assert node.step(Due(), 1) == [CheckHealth(trial.point, trial.health)]
        assert node.step(HealthChecked()) == []
    assert [point.revision for point in node.decider.needed] == [2, 1]
    assert node.step(Due(), 5) == []
    assert (node.phase, node.decider.due_s) == (Phase.SETTLED, None)


def test_an_ill_node_goes_back_even_after_it_was_confirmed() -> None:
    node = Node().runs(1)
    healthy(node)
    node.step(Due(), HEALTH_EVERY_S)
    assert node.step(HealthChecked("exit 3")) == [Remember(), GoBack(point(1), point(2))]
    killed = Node(node.memory)  # between the two: it goes back all the same
    assert killed.begin(point(2)) == [GoBack(point(1), point(2))]
    assert node.step(GoneBack()) == [Remember(), Say()]
    assert (node.memory.running, said(node)) == (point(1), ("rolled_back", 2, "exit 3"))
    assert node.asked(target(2, health=("bin/check",), trial_s=25.0)) == []


def test_a_rollout_that_is_aborted_does_not_wait_for_the_trial() -> None:
    node = Node().runs(1)
    healthy(node)
    assert node.asked(target(1, 3)) == [Say(), Bring(target(1, 3))]
    node.step(Brought())
    node.step(Activated())
    node.step(Heard())
    assert (node.phase, node.memory.running) == (Phase.SETTLED, point(1))


# ---------------------------------------------------------------------- restarts


def test_a_restart_gives_a_revision_its_time_again_but_not_for_ever() -> None:
    node = Node().runs(1)
    node.asked(target(2))
    node.step(Brought())
    for attempt in range(2, ATTEMPTS_MAX + 1):
        node = Node(node.memory)
        effects = node.begin(point(2))
        assert effects == [Remember(), Activate(Trial(point(2), Serial(2), attempts=attempt), point(1))]
    node = Node(node.memory)
    assert node.begin(point(2)) == [GoBack(point(1), point(2))]
    node.step(GoneBack())
    assert said(node) == ("rolled_back", 2, "jlogd was started 3 times while it was not confirmed")


def test_a_restart_before_the_swap_forgets_the_trial() -> None:
    node = Node().runs(1)
    node.asked(target(2))
    node.step(Brought())
    node = Node(node.memory)
    assert node.begin(point(1)) == [Remember()]
    assert node.asked(target(2))[-1] == Bring(target(2))


def test_a_swap_whose_memory_was_lost_is_a_trial() -> None:
    node = Node(Node().runs(1).memory)
    assert node.begin(point(2)) == [Remember(), Activate(Trial(point(2), Serial(1)), point(1))]
    node.step(NotActivated("exit 1"))
    assert node.step(GoneBack()) == [Remember(), Say()]
    assert node.memory.running == point(1)


def test_a_lost_memory_takes_what_is_current_for_granted() -> None:
    node = Node()
    assert node.begin(point(7)) == [Remember()]
    assert (node.memory.running, said(node)) == (point(7), ("applied", 7, ""))
    assert node.asked(target(7)) == [Remember(), Say()]


def test_a_restart_in_peace_does_nothing() -> None:
    node = Node(Node().runs(3).memory)
    assert node.begin(point(3)) == []
    assert node.asked(target(3)) == []


def test_events_that_nobody_asked_for_are_faults() -> None:
    node = Node()
    for event in (Brought(), NotBrought("x"), Activated(), NotActivated("x"), GoneBack(), HealthChecked()):
        before = node.memory
        with pytest.raises(ValueError, match="does not belong into SETTLED"):
            node.step(event)
        assert node.memory == before


# ---------------------------------------------------------------------- whom to follow


def choose(chooser: Chooser, memory: Memory, now_s: float, *targets: Target | None, managers: int = 2) -> Target | None:
    names = [f"m{number}" for number in range(max(managers, len(targets)))]
    return chooser.choose(dict(zip(names, targets, strict=False)), names, memory, now_s)


FOLLOWING = Memory(repository=ROOT, followed=Serial(9), running=point(9), about=point(9), serial=Serial(9))


def test_the_highest_serial_counts() -> None:
    assert choose(Chooser(), FOLLOWING, 0, target(10), target(11)) == target(11)
    assert choose(Chooser(), FOLLOWING, 0, target(7, 12), target(11)) == target(7, 12)
    assert choose(Chooser(), FOLLOWING, 0, target(9), None) == target(9)
    assert choose(Chooser(), Memory(), 0, target(3), target(2)) == target(3)


def test_two_revisions_of_one_serial_do_not_alternate() -> None:
    for other in (target(8, 9), target(10, 9)):
        assert choose(Chooser(), FOLLOWING, 0, other, target(9)) == target(9)
        assert choose(Chooser(), FOLLOWING, 0, target(9), other) == target(9)


def test_a_lower_serial_counts_only_when_everybody_is_there_and_has_said_so_for_a_while() -> None:
    chooser = Chooser()
    assert choose(chooser, FOLLOWING, 0, target(5)) is None
    assert choose(chooser, FOLLOWING, 100, target(5)) is None
    assert choose(chooser, FOLLOWING, 200, target(5), None) is None
    assert chooser.due_s == 200 + LOWER_WAIT_S
    assert choose(chooser, FOLLOWING, 200 + LOWER_WAIT_S - 0.1, target(5), None) is None
    assert choose(chooser, FOLLOWING, 200 + LOWER_WAIT_S, target(5), target(4)) == target(5)
    for interruption in ((target(5),), (target(5), target(6)), (target(5), target(9))):
        chooser = Chooser()
        choose(chooser, FOLLOWING, 0, target(5), None)
        choose(chooser, FOLLOWING, 1, *interruption)
        assert choose(chooser, FOLLOWING, LOWER_WAIT_S, target(5), None) is None


def test_another_repository_counts_only_without_the_old_one() -> None:
    new = target(1, 50, OTHER_ROOT)
    chooser = Chooser()
    assert choose(chooser, FOLLOWING, 0, new, target(9)) == target(9)
    assert choose(chooser, FOLLOWING, 10, new) is None
    assert chooser.due_s == 10 + FOREIGN_WAIT_S
    assert choose(chooser, FOLLOWING, 10 + FOREIGN_WAIT_S, new) == new
    chooser = Chooser()
    assert choose(chooser, FOLLOWING, 0, new, None) is None
    assert choose(chooser, FOLLOWING, LOWER_WAIT_S, new, None) == new


def test_a_new_repository_begins_with_a_clean_slate() -> None:
    node = Node().runs(9)
    node.asked(target(10))
    node.step(NotBrought("x", "refused", final=True))
    assert node.asked(target(1, 1, OTHER_ROOT)) == []
    assert node.step(Due(), LOWER_WAIT_S) == [Say(), Bring(target(1, 1, OTHER_ROOT))]
    assert (node.memory.failed, node.memory.followed, node.memory.repository) == ((), 1, OTHER_ROOT)


# ---------------------------------------------------------------------- any order of events


class World:
    """A node whose disk, programs, managers and power do what the numbers say."""

    def __init__(self) -> None:
        self.node = Node()
        self.current: Point | None = None
        self.newest = 1
        self.settle(self.node.begin(None), 0)

    def answer(self, effect: Effect, choice: int) -> Event | None:
        match effect:
            case Bring():
                answers: list[Event] = [Brought(), NotBrought("x"), NotBrought("x", "refused", final=True)]
                return answers[choice % 3]
            case Activate():
                assert self.node.memory.trial == effect.trial
                if choice % 4 == 1 and self.current != effect.trial.point:
                    return NotActivated("x", swapped=False)
                self.current = effect.trial.point
                return NotActivated("x", again=choice % 8 == 2) if choice % 4 == 2 else Activated()
            case GoBack():
                self.current = effect.to
                return GoneBack()
            case CheckHealth():
                return HealthChecked("x" if choice % 2 else "")
        return None

    def settle(self, effects: list[Effect], choice: int) -> None:
        queue = list(effects)
        while queue:
            answer = self.answer(queue.pop(0), choice)
            if answer is not None:
                queue += self.node.step(answer)

    def happen(self, choice: int) -> None:
        kind, detail = choice % 6, choice // 6
        happenings = [self.target, self.heard, self.time, self.alone, self.restart, self.retry]
        self.settle(happenings[kind](detail), detail)

    def target(self, detail: int) -> list[Effect]:
        self.newest += detail % 2
        health = ("check",) if detail % 3 == 0 else ()
        return self.node.asked(target(max(self.newest - detail % 2, 1), self.newest, health=health, trial_s=30.0))

    def heard(self, _detail: int) -> list[Effect]:
        return self.node.step(Heard())

    def time(self, detail: int) -> list[Effect]:
        return self.node.step(Due(), detail % 100)

    def alone(self, _detail: int) -> list[Effect]:
        return self.node.asked()

    def restart(self, _detail: int) -> list[Effect]:
        self.node.decider = Decider(self.node.memory, confirm_s=CONFIRM_S, retry_max_s=RETRY_MAX_S)
        return self.node.begin(self.current)

    def retry(self, _detail: int) -> list[Effect]:
        return self.node.step(Retry())

    def check(self) -> None:
        node, memory = self.node, self.node.memory
        trial = memory.trial
        assert self.current == (trial.point if trial is not None else memory.running) == node.decider.running
        assert (trial is not None) == (node.phase is Phase.UNCONFIRMED)
        assert from_document(json.loads(json.dumps(to_document(memory)))) == memory


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=60))
def test_whatever_happens_a_node_runs_what_was_confirmed_or_is_on_trial(choices: list[int]) -> None:
    """Random managers, failures, times and restarts: invariants hold, and in the end it runs what is asked for."""
    world = World()
    for choice in choices:
        world.happen(choice)
        world.check()
    last = target(world.newest + 1)
    for _ in range(4):
        world.settle(world.node.asked(last, after_s=RETRY_MAX_S), 0)
        world.settle(world.node.step(Heard()), 0)
    assert world.current == world.node.memory.running == point(last.revision)


# ---------------------------------------------------------------------- the memory


def test_a_memory_reads_back() -> None:
    trial = Trial(point(3), Serial(4), ("a", "b"), 1.5, 2)
    failed = (Failed(point(8).id, Serial(8), 2, forgiven=True),)
    memory = Memory(ROOT, Serial(9), point(1), point(2), trial, point(3), Serial(5), "rolled_back", "why", 7, failed)
    assert from_document(json.loads(json.dumps(to_document(memory)))) == memory
    assert from_document(to_document(Memory())) == Memory()


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"running": {}},
        {"running": {"revision": 1, "id": "x"}},
        {"followed": -1},
        {"followed": "1"},
        {"state": "well"},
        {"failed": [{}]},
        {"trial": {"point": None}},
        {"repository": 5},
        {"since_ns": None},
    ],
)
def test_bad_memories_are_damage(change: dict[str, Any]) -> None:
    with pytest.raises(DamageError):
        from_document(to_document(Memory()) | change)
    documents: list[Any] = [None, [], "x", {}]
    for document in documents:
        with pytest.raises(DamageError):
            from_document(document)


def test_only_so_many_failures_are_remembered() -> None:
    memory = Memory()
    for number in range(1, FAILED_MAX + 5):
        memory = memory.with_failure(point(number).id, Serial(number))
    assert len(memory.failed) == FAILED_MAX
    assert not memory.blocks(target(1))
    assert memory.blocks(target(FAILED_MAX + 4))
    assert not memory.blocks(target(FAILED_MAX + 4, 99))
    assert replace(memory, failed=()) == Memory()
