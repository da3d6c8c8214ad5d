"""Nodes that read large packs slowly, over real gRPC: how many at once, who waits, and for how long."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jlogd.attach import bringing
from jlogd.attach.attacher import Attacher
from jlogd.attach.messages import PIECE_MAX, Talk
from jlogd.runtime.errors import RefusedError
from managerd.ecconfigd import attach as attach_module
from managerd.ecconfigd import attach_live
from tests.support.attaching import AttachManager, Heard, attacher, commit
from tests.support.sessions import DEADLINE_S, Bench, bench, until

LARGE, SMALL = commit(1), commit(2)
PIECES = [bytes([number]) * PIECE_MAX for number in range(40)]


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """One turn for all."""
    monkeypatch.setattr(attach_module, "TURNS_MAX", 1)
    with bench(tmp_path) as made:
        yield made


@pytest.fixture
def manager(fleet: Bench) -> AttachManager:
    """It has a large and a small pack."""
    made = AttachManager(fleet)
    made.targets.packs |= {LARGE: PIECES, SMALL: [b"small"]}
    made.targets.large = {LARGE}
    return made


@pytest.fixture
def talk(fleet: Bench, manager: AttachManager) -> Iterator[Callable[[str], Talk]]:
    """Sessions of nodes with the manager."""
    made: list[Attacher] = []

    def begin(name: str) -> Talk:
        heard = Heard()
        made.append(attacher(fleet, manager.address, heard, name))
        session: Talk = heard.next("attached")
        return session

    yield begin
    for one in made:
        assert one.stop(10.0)


def test_a_large_pack_waits_for_its_turn_and_a_small_one_does_not(
    manager: AttachManager, talk: Callable[[str], Talk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who waits in vain is told why, and may ask again; it has its turn when the slow one is done."""
    monkeypatch.setattr(attach_live, "TURN_WAIT_S", 0.3)
    slow, second, third = talk("a"), talk("b"), talk("c")
    reading = slow.fetch(LARGE, [], 60.0)
    assert next(reading) == PIECES[0]
    with pytest.raises(RefusedError, match=r"as many large packs as manager m1 gives .* it is tried again"):
        list(second.fetch(LARGE, [], 60.0))
    assert list(third.fetch(SMALL, [], 60.0)) == [b"small"]
    assert list(second.fetch(SMALL, [], 60.0)) == [b"small"]
    monkeypatch.setattr(attach_live, "TURN_WAIT_S", 60.0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(list, second.fetch(LARGE, [], 60.0))
        until(lambda: [want for _, want, _ in manager.targets.asked].count(LARGE) == 3)
        assert [PIECES[0], *reading] == PIECES
        assert waiting.result(DEADLINE_S) == PIECES


def test_a_session_that_ends_gives_its_turn_back(
    fleet: Bench, manager: AttachManager, talk: Callable[[str], Talk]
) -> None:
    """Nobody stands in the way because he went away."""
    heard = Heard()
    gone = attacher(fleet, manager.address, heard, "gone")
    reading = heard.next("attached").fetch(LARGE, [], 60.0)
    assert next(reading) == PIECES[0]
    assert gone.stop(10.0)
    assert list(talk("a").fetch(LARGE, [], 60.0)) == PIECES


def test_who_takes_longer_than_a_node_would_wait_loses_its_turn(
    talk: Callable[[str], Talk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few that read a byte a minute keep nobody else from reading."""
    assert attach_live.PACK_S == bringing.FETCH_S
    monkeypatch.setattr(attach_live, "PACK_S", 0.5)
    slow, second = talk("a"), talk("b")
    reading = slow.fetch(LARGE, [], 60.0)
    got = [next(reading)]
    monkeypatch.setattr(attach_live, "PACK_S", 60.0)
    assert list(second.fetch(LARGE, [], 60.0)) == PIECES
    with pytest.raises(RefusedError, match="not read within"):
        got += list(reading)
    assert got == PIECES[:1]
    assert list(slow.fetch(LARGE, [], 60.0)) == PIECES
