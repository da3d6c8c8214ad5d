"""One owner at a time, epochs that never come back, whatever is torn."""

import subprocess
import sys
from pathlib import Path

import pytest

from jlogd.runtime.clock import ManualClock
from jlogd.runtime.errors import DamageError, LockedError, StorageError
from jlogd.spool.owner import OWNER_FILE, SLOT_BYTES, Owner, OwnerStatus, read_owner
from tests.support.faulty_fs import FaultyFs

HOLD = """
import sys; from pathlib import Path; from jlogd.spool.owner import Owner
owner = Owner.acquire(Path(sys.argv[1]), "holder"); print(owner.epoch, flush=True); sys.stdin.read()
"""


def test_epochs_grow_and_the_record_says_who(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "n1"
    assert read_owner(directory) == OwnerStatus(locked=False, record=None)
    with Owner.acquire(directory, "n1", seed=41, clock=ManualClock()) as owner:
        assert owner.epoch == 42
        status = read_owner(directory)
        assert status == OwnerStatus(locked=True, record=owner.record)
        assert owner.record.since == "2023-11-14T22:13:20Z"
    assert read_owner(directory) == OwnerStatus(locked=False, record=owner.record)
    with Owner.acquire(directory, "n1") as again:
        assert again.epoch == 43


def test_a_held_directory_names_its_holder_and_kill_frees_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "1\n"
        with pytest.raises(LockedError, match=rf"'holder' on host .*, pid {holder.pid}, since 20"):
            Owner.acquire(tmp_path, "other")
        assert read_owner(tmp_path).locked
        holder.kill()
        holder.wait(10)
        with Owner.acquire(tmp_path, "other") as owner:
            assert owner.epoch == 2


@pytest.mark.parametrize("torn", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("starts", [0, 1, 2])
def test_a_start_that_fails_anywhere_neither_bricks_nor_repeats_an_epoch(
    tmp_path: Path, starts: int, torn: float
) -> None:
    probe = tmp_path / "probe"
    for _ in range(starts):
        Owner.acquire(probe, "n").release()
    counting = FaultyFs()
    Owner.acquire(probe, "n", fs=counting).release()
    assert counting.operations >= 5
    for number in range(1, counting.operations + 1):
        directory = tmp_path / f"{number}"
        for _ in range(starts):
            Owner.acquire(directory, "n").release()
        with pytest.raises(StorageError):
            Owner.acquire(directory, "n", fs=FaultyFs(number, torn=torn))
        assert not read_owner(directory).locked
        with Owner.acquire(directory, "n") as owner:
            assert owner.epoch > starts


@pytest.mark.parametrize("slot", [0, 1])
def test_one_bad_slot_does_not_take_the_epoch_back(tmp_path: Path, slot: int) -> None:
    for _ in range(3):
        Owner.acquire(tmp_path, "n").release()
    spoil(tmp_path, slot)
    with Owner.acquire(tmp_path, "n") as owner:
        assert owner.epoch == 4


def test_two_bad_slots_are_damage(tmp_path: Path) -> None:
    Owner.acquire(tmp_path, "n").release()
    spoil(tmp_path, 0)
    spoil(tmp_path, 1)
    with pytest.raises(DamageError, match="both records are damaged"):
        Owner.acquire(tmp_path, "n")


def test_a_status_probe_does_not_fail_a_start(tmp_path: Path) -> None:
    Owner.acquire(tmp_path, "n").release()
    with subprocess.Popen(
        ["flock", "--shared", str(tmp_path / OWNER_FILE), "sh", "-c", "echo held; sleep 0.05"], stdout=subprocess.PIPE
    ) as probe:
        assert probe.stdout is not None
        assert probe.stdout.readline() == b"held\n"
        Owner.acquire(tmp_path, "n").release()


def spoil(directory: Path, slot: int) -> None:
    with (directory / OWNER_FILE).open("r+b") as file:
        file.seek(slot * SLOT_BYTES + 20)
        file.write(b"\xff")
