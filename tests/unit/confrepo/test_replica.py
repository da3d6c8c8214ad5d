"""What a node has of the repository: complete or not there, verified, signed as the operator wants."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jlogd.confrepo.model import CommitId, Revision
from jlogd.confrepo.repository import MAIN
from jlogd.confrepo.signing import sign
from jlogd.runtime.errors import DamageError, JlogdError, RefusedError
from managerd import pki
from tests.support.replicas import Origin, bring, content, open_replica, run
from tests.support.revisions import put


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin(tmp_path)


def packs(directory: Path) -> Iterator[Path]:
    """Those of the object store."""
    return (directory / "config/objects/pack").glob("*.pack")


def test_a_revision_is_here_when_all_of_it_is(tmp_path: Path, origin: Origin) -> None:
    replica = open_replica(tmp_path / "config")
    first = origin.commit(put("global/a", "a") | put("web/web1/b", "b"))
    assert not replica.has(first.id)
    assert replica.have() == []
    replica.receive(first.id, origin.pack(first.id), [])
    assert replica.has(first.id)
    replica.close()
    assert open_replica(tmp_path / "config").has(first.id)
    replica = open_replica(tmp_path / "config")
    assert replica.have() == []  # only what is laid out stays for sure
    bring(replica, origin, first)
    assert replica.have() == [first.id]


def test_a_thousand_revisions_come_as_one_pack(tmp_path: Path, origin: Origin) -> None:
    """Only what differs between the first and the last."""
    replica = open_replica(tmp_path / "config")
    first = origin.commit({f"global/f{number}": file for number in range(200) for file in put("x", "x" * 200).values()})
    run(replica, origin, first)
    for number in range(60):
        last = origin.put("global/f1", f"{number}")
    pack = origin.pack(last.id, replica.have())
    assert sum(map(len, pack)) < 10_000
    replica.receive(last.id, pack, replica.have())
    view = run(replica, origin, last)
    assert content(view)["f1"] == b"59"


def test_a_pack_that_lacks_something_or_is_damaged_does_not_count(tmp_path: Path, origin: Origin) -> None:
    """Every flipped bit, and every cut: damage, or a complete revision."""
    first = origin.commit(put("global/a", "a" * 50) | put("web/web1/b", "b"))
    second = origin.put("global/a", "c")
    replica = open_replica(tmp_path / "config")
    with pytest.raises(DamageError):
        replica.receive(second.id, origin.pack(second.id, [first.id]), [])
    assert not replica.has(second.id)
    pack = b"".join(origin.pack(first.id))
    rng = random.Random(1)
    for number in range(30):
        bad = bytearray(pack)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        fresh = open_replica(tmp_path / f"c{number}")
        with pytest.raises(DamageError):
            fresh.receive(first.id, [bytes(bad)], [])
        assert not fresh.has(first.id)
        with pytest.raises(DamageError):
            fresh.receive(first.id, [pack[: rng.randrange(len(pack))]], [])
    replica.receive(second.id, origin.pack(second.id), [])
    assert replica.has(second.id)


def test_damaged_objects_are_found_and_can_be_fetched_anew(tmp_path: Path, origin: Origin) -> None:
    replica = open_replica(tmp_path / "config")
    first = origin.commit(put("global/a", "first") | put("global/b", "b"))
    run(replica, origin, first)
    replica.close()
    for path in packs(tmp_path):
        path.chmod(0o644)
        stored = path.read_bytes()
        path.write_bytes(stored[:12] + bytes(byte ^ 0xFF for byte in stored[12:-20]) + stored[-20:])
    replica = open_replica(tmp_path / "config")
    second = origin.put("global/a", "second")
    with pytest.raises(JlogdError):
        bring(replica, origin, second)
    replica.doubt()
    assert replica.have() == []
    replica.begin_anew()
    assert content(run(replica, origin, second)) == {"a": b"second", "b": b"b"}


def test_a_revision_must_be_what_it_is_announced_as(tmp_path: Path, origin: Origin) -> None:
    replica = open_replica(tmp_path / "config")
    first = origin.put("global/a", "a")
    bring(replica, origin, first)
    assert replica.check(first.id, Revision(1)) == ""
    with pytest.raises(RefusedError, match=r"r2 is announced as [0-9a-f]{40}, which is r1"):
        replica.check(first.id, Revision(2))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate authority with alice, and a foreign one."""
    home = tmp_path_factory.mktemp("pki")
    for name in ("ours", "foreign"):
        pki.init(home / name)
        pki.issue("operator", "alice", home / name)
    return home


def signed(origin: Origin, authority: Path, whose: str) -> CommitId:
    """A signed first revision."""
    draft = origin.repository.draft(
        None, put("global/a", whose), author="operator:alice", message="m", time_s=int(time.time())
    )
    directory = authority / whose
    signature = sign(draft.content, (directory / "alice.crt").read_bytes(), (directory / "alice.key").read_bytes())
    commit_id, commit = origin.repository.seal(draft.content, signature)
    origin.repository.store.add([*draft.objects, commit])
    origin.repository.advance({MAIN: (None, commit_id)})
    return commit_id


@pytest.mark.parametrize("policy", ["off", "warn", "require"])
def test_unsigned_revisions(tmp_path: Path, origin: Origin, authority: Path, policy: str) -> None:
    replica = open_replica(tmp_path / "config", signatures=policy, ca=authority / "ours/ca.crt")
    first = origin.put("global/a", "a")
    bring(replica, origin, first)
    if policy == "require":
        with pytest.raises(RefusedError, match=r"signature of r1: the revision is not signed"):
            replica.check(first.id, first.revision)
    else:
        assert replica.check(first.id, first.revision) == (
            "signature: the revision is not signed" if policy == "warn" else ""
        )


def test_signed_revisions(tmp_path: Path, origin: Origin, authority: Path) -> None:
    deny = tmp_path / "deny"
    deny.write_text("")
    replica = open_replica(tmp_path / "config", signatures="require", ca=authority / "ours/ca.crt", deny=deny)
    good = origin.repository.commit(signed(origin, authority, "ours"))
    bring(replica, origin, good)
    assert replica.check(good.id, good.revision) == ""
    other = Origin(tmp_path / "other")
    bad = other.repository.commit(signed(other, authority, "foreign"))
    replica.receive(bad.id, other.pack(bad.id), [])
    with pytest.raises(RefusedError, match=r"signature of r1: "):
        replica.check(bad.id, bad.revision)
