"""Signatures of revisions: good ones, and each way in which one is not."""

import base64
import hashlib
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from jlogd.confrepo.commits import compose, parse_commit, with_signature, without_signature
from jlogd.confrepo.model import ObjectId
from jlogd.confrepo.signing import sign, verify
from jlogd.runtime.certificates import DenyList
from jlogd.runtime.errors import RefusedError
from managerd import pki
from tests.support.certificates import forge

NOW = int(time.time())
CONTENT = compose(ObjectId("1" * 40), None, "operator:alice", NOW, "first")


def never(fingerprint: str) -> bool:
    return False


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pki")
    pki.init(directory)
    pki.issue("operator", "alice", directory)
    pki.issue("operator", "bob", directory)
    pki.issue("manager", "m1", directory)
    pki.issue("node", "web1", directory)
    return directory


def signed(directory: Path, name: str, content: bytes = CONTENT) -> bytes:
    return sign(content, (directory / f"{name}.crt").read_bytes(), (directory / f"{name}.key").read_bytes())


def check(
    directory: Path,
    signature: bytes,
    content: bytes = CONTENT,
    denied: Callable[[str], bool] = never,
    author: str = "operator:alice",
    time_s: int = NOW,
) -> str:
    ca = (directory / "ca.crt").read_bytes()
    return verify(content, signature, ca_pem=ca, denied=denied, author=author, time_s=time_s)


def test_an_author_signs_his_revision(authority: Path) -> None:
    assert check(authority, signed(authority, "alice")) == "operator:alice"


def test_a_manager_signs_what_it_replays(authority: Path) -> None:
    assert check(authority, signed(authority, "m1")) == "manager:m1"


def test_it_survives_the_commit_object(authority: Path) -> None:
    """Into the header, folded, and back: the signature covers what is left without the header."""
    stored = with_signature(CONTENT, signed(authority, "alice"))
    assert without_signature(stored) == CONTENT
    assert check(authority, parse_commit(stored).signature, without_signature(stored)) == "operator:alice"


@pytest.mark.parametrize(
    ("name", "reason"), [("bob", "of operator:alice is signed by operator:bob"), ("web1", "signed by a node, web1")]
)
def test_others_cannot_sign_for_him(authority: Path, name: str, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        check(authority, signed(authority, name))


def test_altered_content_is_refused(authority: Path) -> None:
    good = signed(authority, "alice")
    for at in range(0, len(CONTENT), 7):
        altered = CONTENT[:at] + bytes([CONTENT[at] ^ 1]) + CONTENT[at + 1 :]
        with pytest.raises(RefusedError, match="altered"):
            check(authority, good, altered)


def test_a_foreign_authority_is_refused(authority: Path, tmp_path: Path) -> None:
    pki.init(tmp_path / "other")
    pki.issue("operator", "alice", tmp_path / "other")
    with pytest.raises(RefusedError, match="not issued by our authority"):
        check(authority, signed(tmp_path / "other", "alice"))


def test_a_denied_certificate_is_refused(authority: Path, tmp_path: Path) -> None:
    deny = tmp_path / "deny"
    der = ssl.PEM_cert_to_DER_cert((authority / "alice.crt").read_text())
    deny.write_text(hashlib.sha256(der).hexdigest() + " # lost laptop\n")
    with pytest.raises(RefusedError, match="operator:alice is denied"):
        check(authority, signed(authority, "alice"), denied=DenyList(deny).denies)
    assert check(authority, signed(authority, "m1"), denied=DenyList(deny).denies) == "manager:m1"


def test_validity_counts_at_the_time_of_the_commit(authority: Path) -> None:
    """Long expired today, valid then: good. And the other way round."""
    forge(authority, "old", uris=("jlogd:operator:alice",), begin_days=-900, end_days=-100)
    old = signed(authority, "old")
    assert check(authority, old, time_s=NOW - 500 * 86400) == "operator:alice"
    for when in (NOW, NOW - 1000 * 86400, -1, 10**17):
        with pytest.raises(RefusedError, match=r"not valid when|is not one"):
            check(authority, old, time_s=when)


@pytest.mark.parametrize(
    "uris", [(), ("https://example.org/",), ("jlogd:operator:alice", "jlogd:operator:bob"), ("jlogd:root:alice",)]
)
def test_a_certificate_that_does_not_say_who_it_is_is_refused(authority: Path, uris: tuple[str, ...]) -> None:
    forge(authority, "who", uris=uris, dns=("localhost",))
    with pytest.raises(RefusedError, match="does not say who"):
        check(authority, signed(authority, "who"))


def test_every_truncation_is_refused_with_one_line(authority: Path) -> None:
    whole = base64.b64decode(signed(authority, "alice"))
    for length in range(len(whole)):
        with pytest.raises(RefusedError) as caught:
            check(authority, base64.b64encode(whole[:length]))
        assert "\n" not in str(caught.value)


def test_every_flipped_byte_is_refused(authority: Path) -> None:
    whole = base64.b64decode(signed(authority, "alice"))
    for at in range(0, len(whole), 3):
        with pytest.raises(RefusedError):
            check(authority, base64.b64encode(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]))


@pytest.mark.parametrize("signature", [b"", b"!", b"QUJD", b"A" * (1 << 20), base64.b64encode(b"\xff" * 100)])
def test_garbage_and_huge_input_is_refused(authority: Path, signature: bytes) -> None:
    with pytest.raises(RefusedError):
        check(authority, signature)


def test_a_key_that_is_not_the_certificates_cannot_sign(authority: Path) -> None:
    cert = (authority / "alice.crt").read_bytes()
    keys = (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1()))
    pems = [key.private_bytes(ENCODING, FORMAT, serialization.NoEncryption()) for key in keys]
    for key in ((authority / "bob.key").read_bytes(), *pems, b"no key"):
        with pytest.raises(RefusedError):
            sign(CONTENT, cert, key)
    with pytest.raises(RefusedError):
        sign(CONTENT, b"no certificate", (authority / "alice.key").read_bytes())


ENCODING, FORMAT = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8


def test_cryptography_is_not_loaded_before_it_is_needed() -> None:
    program = (
        "import sys, jlogd.confrepo.signing, jlogd.confrepo.secrets; "
        "print([name for name in ('cryptography', 'pyrage') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True, timeout=60)
    assert found.stdout.strip() == "[]"
