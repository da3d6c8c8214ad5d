"""The certificate authority: who may say what, key modes, nothing overwritten, revocation once."""

import ipaddress
import os
import ssl
import stat
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from jlogd.runtime.errors import ConflictError, RefusedError, UsageError
from managerd import pki
from managerd.commands.pki import pki as pki_command


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A fresh authority."""
    pki.init(tmp_path / "pki")
    return tmp_path / "pki"


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def names_of(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def usages_of(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", ["web1", "localhost", "manager.jlogd", "a" * 63])
def test_node_has_no_server_name(authority: Path, name: str) -> None:
    """A node's certificate names it by URI alone, whatever it is called: no DNS name, no common name."""
    certificate = load(pki.issue("node", name, authority).certificate)
    names = names_of(certificate)
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"jlogd:node:{name}"]
    assert len(list(names)) == 1
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME) == []
    assert usages_of(certificate) == {ExtendedKeyUsageOID.CLIENT_AUTH}


def test_manager_names(authority: Path) -> None:
    """A manager's certificate holds for its name, localhost, manager.jlogd, 127.0.0.1 and each --san, once each."""
    issued = pki.issue("manager", "m1", authority, san=["logs.example.com", "10.0.0.5", "localhost", "fe80::1"])
    certificate = load(issued.certificate)
    names = names_of(certificate)
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["jlogd:manager:m1"]
    assert names.get_values_for_type(x509.DNSName) == ["m1", "localhost", "manager.jlogd", "logs.example.com"]
    addresses = [ipaddress.ip_address(a) for a in ("127.0.0.1", "10.0.0.5", "fe80::1")]
    assert names.get_values_for_type(x509.IPAddress) == addresses
    assert usages_of(certificate) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}


def test_operator_is_a_client(authority: Path) -> None:
    """An operator's certificate is for a client and carries its URI."""
    certificate = load(pki.issue("operator", "alice", authority).certificate)
    assert names_of(certificate).get_values_for_type(x509.UniformResourceIdentifier) == ["jlogd:operator:alice"]
    assert usages_of(certificate) == {ExtendedKeyUsageOID.CLIENT_AUTH}


def test_keys_are_private_and_p256(authority: Path) -> None:
    """Keys are ECDSA P-256 with mode 0600 even under a careless umask; the chain verifies; notBefore is in the past."""
    old = os.umask(0)
    try:
        issued = pki.issue("node", "web1", authority)
    finally:
        os.umask(old)
    for path in (issued.key, authority / "ca.key"):
        assert mode_of(path) == 0o600
        key = load_pem_private_key(path.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert isinstance(key.curve, ec.SECP256R1)
    certificate, ca = load(issued.certificate), load(authority / "ca.crt")
    certificate.verify_directly_issued_by(ca)
    now = datetime.now(UTC)
    assert timedelta(minutes=4) < now - certificate.not_valid_before_utc < timedelta(minutes=7)
    assert abs((certificate.not_valid_after_utc - now).days - pki.LEAF_DAYS) <= 1
    assert ca.extensions.get_extension_for_oid(ExtensionOID.BASIC_CONSTRAINTS).critical


def test_nothing_is_overwritten(authority: Path) -> None:
    """A second init or issue refuses and leaves every file as it was, also when only one of the two is in the way."""
    issued = pki.issue("node", "web1", authority)
    before = {path: path.read_bytes() for path in sorted(authority.rglob("*")) if path.is_file()}
    with pytest.raises(ConflictError, match=r"web1\.key exists"):
        pki.issue("node", "web1", authority)
    with pytest.raises(ConflictError, match=r"ca\.key exists"):
        pki.init(authority)
    with pytest.raises(ConflictError, match=r"ca\.key exists"):
        pki.issue("node", "ca", authority)
    assert {path: path.read_bytes() for path in sorted(authority.rglob("*")) if path.is_file()} == before
    issued.key.unlink()
    with pytest.raises(ConflictError, match=r"web1\.crt exists"):
        pki.issue("node", "web1", authority)
    assert not issued.key.exists()


@pytest.mark.parametrize("name", ["", "Web1", "../x", "a/b", ".a", "-a", "a" * 64, "a b", "ä", "web1\n"])
def test_bad_names(authority: Path, name: str) -> None:
    """A name outside the contract's pattern gets no certificate and touches no path."""
    with pytest.raises(UsageError, match="not allowed"):
        pki.issue("node", name, authority)
    with pytest.raises(UsageError, match="not allowed"):
        pki.revoke(name, authority)


def test_san_is_for_managers(authority: Path) -> None:
    """Neither node nor operator can ask for a server name, and a manager not for nonsense."""
    with pytest.raises(UsageError, match="for managers"):
        pki.issue("node", "web1", authority, san=["manager.jlogd"])
    with pytest.raises(UsageError, match="for managers"):
        pki.issue("operator", "alice", authority, san=["localhost"])
    with pytest.raises(UsageError, match="neither a host name"):
        pki.issue("manager", "m1", authority, san=["a b"])


def test_not_past_the_authority(authority: Path) -> None:
    """A certificate does not outlive its authority, and days are bounded."""
    with pytest.raises(RefusedError, match="fewer --days"):
        pki.issue("node", "web1", authority, days=pki.CA_DAYS)
    with pytest.raises(UsageError, match="out of range"):
        pki.issue("node", "web1", authority, days=0)


def test_revoke_all_once(authority: Path, tmp_path: Path) -> None:
    """Every certificate of the name is denied, one line each, once; a hand-edited deny file is kept."""
    first = pki.issue("node", "web1", authority)
    second = pki.issue("node", "web1", authority, out=tmp_path / "out")
    pki.issue("node", "web1.b", authority)
    (authority / "deny").write_bytes(b"# by hand, no newline")
    assert sorted(pki.revoke("web1", authority)) == sorted([first.fingerprint, second.fingerprint])
    assert pki.revoke("web1", authority) == []
    lines = (authority / "deny").read_text().splitlines()
    assert lines[0] == "# by hand, no newline"
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert sorted(lines[1:]) == sorted(f"{i.fingerprint}  # web1 {today}" for i in (first, second))
    der = load(first.certificate).public_bytes(Encoding.DER)
    assert first.fingerprint == sha256(der).hexdigest() == pki.fingerprint(first.certificate.read_bytes())
    with pytest.raises(RefusedError, match="no certificate"):
        pki.revoke("nobody", authority)


def test_missing_or_foreign_authority(authority: Path, tmp_path: Path) -> None:
    """Without an authority, or with a key that is not its own, nothing is issued and the message says what to do."""
    with pytest.raises(RefusedError, match="managerd pki init"):
        pki.issue("node", "web1", tmp_path / "nowhere")
    pki.init(tmp_path / "other")
    (authority / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    with pytest.raises(UsageError, match="not the key"):
        pki.issue("node", "web1", authority)


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    """A TLS handshake in memory; raises what either side refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(6):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue


def test_node_cannot_pose_as_manager(authority: Path) -> None:
    """TLS: a manager's certificate serves manager.jlogd; a node's certificate, whatever its name, does not."""

    def context(issued: pki.Issued, *, server: bool) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        made.load_cert_chain(issued.certificate, issued.key)
        made.load_verify_locations(authority / "ca.crt")
        made.verify_mode = ssl.CERT_REQUIRED
        return made

    manager = context(pki.issue("manager", "m1", authority), server=True)
    posing = context(pki.issue("node", "manager.jlogd", authority), server=True)
    node = context(pki.issue("node", "web1", authority), server=False)
    handshake(node, manager, "manager.jlogd")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(node, manager, "other.example.com")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(node, posing, "manager.jlogd")
    node.check_hostname = False
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        handshake(node, posing, "manager.jlogd")


def test_commands(tmp_path: Path) -> None:
    """The three commands do what the functions do, in the order that the help shows."""
    runner = CliRunner()
    directory = str(tmp_path / "pki")
    for words in (
        ["init", directory],
        ["issue", "manager", "m1", "--pki", directory, "--san", "10.0.0.5", "--out", str(tmp_path / "m1")],
        ["issue", "node", "web1", "--pki", directory, "--json"],
        ["revoke", "web1", "--pki", directory],
        ["revoke", "web1", "--pki", directory],
    ):
        result = runner.invoke(pki_command, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert (tmp_path / "m1" / "m1.crt").exists()
    assert (tmp_path / "pki" / "deny").read_text().count("# web1 ") == 1
    assert "had every certificate" in result.output
