"""Several managers' words of one node: one entry, its newest word, attached while one of them sees it."""

import itertools
from dataclasses import replace

import pytest

from jlogd.attach.messages import Report
from jlogd.confrepo.model import Serial
from managerd.ecconfigd.sightings import NodeEntry, Sighting, merged, same, same_sighting
from tests.support.attaching import report

OLD = NodeEntry("web1", "web", attached=False)


def said(at_ns: int, session: int = 1, state: str = "applied", **more: object) -> Sighting:
    """A sighting whose node says that it is in this state since then."""
    return Sighting("web", "", session, report(1, state, since_ns=at_ns, **more))  # type: ignore[arg-type]


def after(*words: tuple[str, Sighting | None], old: NodeEntry = OLD) -> NodeEntry:
    """What they make, one after the other, at 1, 2, … ns."""
    seen: dict[str, Sighting] = {}
    for now_ns, (manager, sighting) in enumerate(words, 1):
        before = dict(seen)
        if sighting is None:
            del seen[manager]
        else:
            seen[manager] = sighting
        old = merged(old, before, seen, manager, now_ns)
    return old


def word(entry: NodeEntry) -> Report:
    assert entry.report is not None
    return entry.report


@pytest.mark.parametrize("order", list(itertools.permutations(["m1", "m2", "m3"])))
def test_the_newest_word_counts_whoever_brings_it(order: tuple[str, ...]) -> None:
    """In any order of arrival: m2's is newer than the others'."""
    words = {"m1": said(10), "m2": said(30, state="rolled_back", error="no"), "m3": said(20)}
    entry = after(*((manager, words[manager]) for manager in order))
    assert (entry.state, entry.error, entry.via, entry.fresh) == ("rolled_back", "no", ("m1", "m2", "m3"), True)
    assert entry.changed_ns == 1, "it attached once"


def test_of_one_state_the_target_decides_then_who_came_last() -> None:
    """A later serial is about a later target; drift alone changes neither."""
    later = said(10)
    later = replace(later, report=replace(word(after(("m1", later))), serial=Serial(9)))
    assert word(after(("m1", later), ("m2", said(10)))).serial == 9
    assert after(("m1", said(10, drift_count=1)), ("m2", said(10, drift_count=2))).drift_count == 2
    assert after(("m2", said(10, drift_count=2)), ("m1", said(10, drift_count=1))).drift_count == 1


def test_it_is_attached_while_one_sees_it() -> None:
    """The last one gone, it is offline, and keeps what was known, and via whom. Its newest word stays its newest."""
    both = [("m1", said(10)), ("m2", said(20))]
    left = after(*both, ("m2", None))
    assert (left.state, left.via, left.changed_ns, word(left).since_ns) == ("applied", ("m1",), 1, 20)
    assert left.fresh
    again = after(*both, ("m2", None), ("m1", said(30)))
    assert word(again).since_ns == 30
    gone = after(*both, ("m1", None), ("m2", None))
    assert (gone.state, gone.via, gone.changed_ns, gone.fresh, word(gone).since_ns) == (
        "offline",
        ("m2",),
        4,
        False,
        20,
    )


def test_a_new_session_breaks_what_no_other_one_holds() -> None:
    """What it said before is shown, and does not count as said now."""
    again = after(("m1", said(10)), ("m1", Sighting("web", session=2)))
    assert (again.state, again.fresh, again.changed_ns) == ("applied", False, 2)
    held = after(("m1", said(10)), ("m2", said(10)), ("m1", Sighting("web", session=2)))
    assert (held.fresh, held.changed_ns) == (True, 1)


def test_who_it_is_follows_the_last_word() -> None:
    """A node that moved to another subcluster says so when it attaches."""
    entry = after(("m1", said(10)), ("m2", Sighting("db", "age1x", 1)))
    assert (entry.subcluster, entry.recipient) == ("db", "age1x")
    assert after(("m1", said(10)), ("m2", Sighting("db")), ("m1", None)).subcluster == "db"


def test_what_nobody_has_to_hear_of() -> None:
    """That it was seen, and the number of a report that says the same."""
    one = after(("m1", said(10, number=1)))
    assert same(one, after(("m1", said(10, number=1)), ("m1", said(10, number=2))))
    assert not same(one, after(("m1", said(10, error="e"))))
    assert not same(one, after(("m1", said(10)), ("m2", said(10)))), "via one more"
    assert same_sighting(said(10, number=1), said(10, number=2))
    assert not same_sighting(said(10), said(10, session=2))
    assert not same_sighting(None, said(10))
    assert same_sighting(None, None)
