"""How the objects of a revision get here: with the target, or fetched; damaged ones are asked for again."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jlogd.attach.bringing import bring
from jlogd.attach.events import Brought
from jlogd.attach.inbox import Inbox
from jlogd.attach.messages import Gift, Target
from jlogd.confrepo.model import Commit
from tests.support.replicas import DirectManager, Origin, open_replica

Facts = tuple[Origin, Any, DirectManager, Inbox]


@pytest.fixture
def node(tmp_path: Path) -> Facts:
    """A repository, a node that has its first revision, the manager it asks."""
    origin = Origin(tmp_path / "origin")
    replica = open_replica(tmp_path / "config")
    inbox = Inbox()
    manager = DirectManager("m1", origin, inbox)
    manager.attach()
    first = origin.put("global/a", "1")
    assert bring(replica, origin.target(first), inbox.take()[0]) == Brought()
    replica.views.swap(first.id)
    manager.fetches.clear()
    return origin, replica, manager, inbox


def with_gift(origin: Origin, revision: Commit, have: Commit, pack: bytes | None = None) -> Target:
    """What a manager says that thinks that the node has ``have``."""
    pieces = origin.pack(revision.id, [have.id]) if pack is None else [pack]
    return replace(origin.target(revision), gift=Gift(have.id, b"".join(pieces)))


def test_what_comes_with_the_target_is_not_fetched(node: Facts, caplog: pytest.LogCaptureFixture) -> None:
    origin, replica, manager, inbox = node
    first, second = origin.repository.head(), origin.put("global/a", "2")
    assert first is not None
    caplog.set_level(logging.INFO)
    assert bring(replica, with_gift(origin, second, first), inbox.take()[0]) == Brought()
    assert manager.fetches == []
    assert (replica.views.path(second.id) / "a").read_text() == "2"
    assert f"fetched {second.id[:8]}: 4 objects" in caplog.text


@pytest.mark.parametrize("pack", [b"", b"PACK\0\0\0\2\0\0\0\0" + bytes(20)], ids=["empty", "bad"])
def test_a_damaged_gift_is_fetched(node: Facts, pack: bytes) -> None:
    origin, replica, manager, inbox = node
    first, second = origin.repository.head(), origin.put("global/a", "2")
    assert first is not None
    assert bring(replica, with_gift(origin, second, first, pack), inbox.take()[0]) == Brought()
    assert manager.fetches == [(second.id, (first.id,))]


def test_a_gift_that_lacks_something_is_fetched(node: Facts) -> None:
    """It was made for a node that has more; and one for a revision that is not here is not even read."""
    origin, replica, manager, inbox = node
    first = origin.repository.head()
    second, third = origin.put("global/b", "2"), origin.put("global/c", "3")
    assert first is not None
    lacking = Gift(first.id, b"".join(origin.pack(third.id, [second.id])))
    for gift in (lacking, Gift(second.id, lacking.pack)):
        assert bring(replica, replace(origin.target(third), gift=gift), inbox.take()[0]) == Brought()
        assert manager.fetches == [(third.id, (first.id,))]
    assert sorted(path.name for path in replica.views.path(third.id).iterdir()) == ["a", "b", "c"]
