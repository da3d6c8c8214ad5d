"""Secrets: who can read them, and a node's identity, which must outlive everything that was encrypted to it."""

import base64
import errno
from pathlib import Path

import pytest

from jlogd.confrepo.secrets import RECIPIENTS_MAX, TEXT_BYTES_MAX, Identity, encrypt, is_secret
from jlogd.runtime.errors import DamageError, RefusedError, StorageError
from tests.support.faulty_fs import FaultyFs
from tests.support.power_cut_fs import PowerCutFs


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Identity.load_or_create(tmp_path / "config" / "identity")


def test_each_recipient_reads_it_and_nobody_else(tmp_path: Path, identity: Identity) -> None:
    second, third = (Identity.load_or_create(tmp_path / name) for name in ("second", "third"))
    value = encrypt("päss\nword", [identity.recipient, second.recipient, second.recipient])
    assert is_secret(value)
    assert identity.decrypt(value) == second.decrypt(value) == "päss\nword"
    with pytest.raises(RefusedError, match=f"not encrypted for this node .{third.recipient}"):
        third.decrypt(value)


def test_an_identity_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    first = Identity.load_or_create(path)
    content = path.read_bytes()
    assert Identity.load_or_create(path).recipient == first.recipient
    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_identity_that_others_can_read_is_refused(tmp_path: Path, identity: Identity) -> None:
    path = tmp_path / "config" / "identity"
    path.chmod(0o640)
    with pytest.raises(RefusedError, match="chmod 600"):
        Identity.load_or_create(path)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"AGE-SECRET-KEY-1" + b"Q" * 58, b"AGE-SECRET-KEY-1QQQ"])
def test_a_damaged_identity_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(DamageError, match="identity"):
        Identity.load_or_create(path)
    assert path.read_bytes() == content


def test_any_failed_operation_leaves_no_identity_or_a_whole_one(tmp_path: Path) -> None:
    count = FaultyFs()
    Identity.load_or_create(tmp_path / "0" / "identity", count)
    assert count.operations >= 6
    for number in range(1, count.operations + 1):
        path = tmp_path / str(number) / "identity"
        with pytest.raises(StorageError):
            Identity.load_or_create(path, FaultyFs(number, torn=0.5))
        assert Identity.load_or_create(path).recipient.startswith("age1")


class FirstRenameNotSynced(PowerCutFs):
    """The sync after the first rename fails: its name may be lost."""

    failed = False

    def rename(self, source: Path, target: Path, *, sync: bool = True) -> None:
        super().rename(source, target, sync=self.failed)
        if not self.failed:
            self.failed = True
            raise OSError(errno.EIO, "lost", str(target))


def test_an_identity_that_was_told_survives_a_power_cut(tmp_path: Path) -> None:
    """Also one that an earlier start made and could not sync: whoever tells it makes it durable first."""
    for seed in range(20):
        path = tmp_path / str(seed) / "config" / "identity"
        fs = FirstRenameNotSynced(tmp_path / f"side{seed}")
        with pytest.raises(StorageError):
            Identity.load_or_create(path, fs)
        told = Identity.load_or_create(path, fs).recipient
        fs.cut(seed)
        assert Identity.load_or_create(path).recipient == told


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "$age:",
        "$age:%%%",
        "$age:" + base64.b64encode(b"age-encryption.org/v1\n").decode(),
        "$age:" + "A" * (4 << 20),
    ],
)
def test_what_is_not_a_secret_is_refused(identity: Identity, value: str) -> None:
    with pytest.raises(RefusedError):
        identity.decrypt(value)


def test_every_truncation_and_flipped_byte_is_refused(identity: Identity) -> None:
    whole = base64.b64decode(encrypt("word", [identity.recipient]).removeprefix("$age:"))
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            with pytest.raises(RefusedError):
                identity.decrypt("$age:" + base64.b64encode(damaged).decode())


def test_bad_recipients_and_sizes_are_refused(identity: Identity) -> None:
    mine = identity.recipient
    for recipients in ([], ["age1nobody"], [mine, "x"], [mine] * (RECIPIENTS_MAX + 1)):
        with pytest.raises(RefusedError):
            encrypt("word", recipients)
    for text in ("x" * (TEXT_BYTES_MAX + 1), "\ud800"):
        with pytest.raises(RefusedError):
            encrypt(text, [mine])
    longest = "x" * TEXT_BYTES_MAX
    assert identity.decrypt(encrypt(longest, [mine])) == longest


def test_other_values_are_not_secrets() -> None:
    assert not any(is_secret(value) for value in (None, 5, "", "age", b"$age:", ["$age:"]))
