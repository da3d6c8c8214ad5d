"""The fleet's own certificate authority: make it, issue certificates, revoke them.

A certificate says who its holder is by one URI, ``jlogd:ROLE:NAME``. Invariants:

* only a manager's certificate carries server names and the server usage, so a node
  named ``localhost`` or ``manager.jlogd`` cannot pose as a manager. The subject has
  no common name either: gRPC falls back to it when there is no other name;
* a private key is created with mode 0600 and nothing is ever overwritten;
* every issued certificate is kept as ``<pki>/issued/NAME/SERIAL.crt``, wherever its
  first copy went, so ``revoke`` finds all that a name ever got.

Files of a pki directory: ``ca.crt``, ``ca.key``, ``deny`` (see ``revoke``), ``issued/``,
and ``NAME.crt``, ``NAME.key`` unless they were written elsewhere.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from jlogd.runtime.arguments import check_name
from jlogd.runtime.errors import ConflictError, RefusedError, StorageError, UsageError
from jlogd.runtime.fs import OS, FileSystem

Role = Literal["node", "manager", "operator"]

MANAGER_SERVER_NAME = "manager.jlogd"  # every manager's certificate has it; nodes demand it whatever they dial
CA_DAYS = 3650
LEAF_DAYS = 825
BACKDATE = timedelta(minutes=5)  # a fleet's clocks differ a little; a fresh certificate must hold everywhere

_KEY_MODE = 0o600
_CERTIFICATE_MODE = 0o644


@dataclass(frozen=True, slots=True)
class Issued:
    """What ``issue`` wrote."""

    certificate: Path
    key: Path
    fingerprint: str  # SHA-256 of the DER, lower-case hex: what a deny file lists
    not_after: datetime


def init(directory: Path, *, fs: FileSystem = OS) -> Path:
    """Make a certificate authority in ``directory`` (created when missing); returns ``ca.crt``. ConflictError."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # Two authorities with one subject confuse chain building, so each has its own.
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "jlogd"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"jlogd CA {serial:040x}"[:24]),
        ]
    )
    certificate = (
        _builder(subject, subject, key.public_key(), serial, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    fs.make_dirs(directory)
    _create(
        fs,
        [
            (directory / "ca.key", _key_pem(key), _KEY_MODE),
            (directory / "ca.crt", _pem(certificate), _CERTIFICATE_MODE),
            (directory / "deny", b"", _CERTIFICATE_MODE),  # there from the start: settings that name it hold
        ],
    )
    return directory / "ca.crt"


def issue(
    role: Role,
    name: str,
    pki: Path,
    *,
    san: Sequence[str] = (),
    out: Path | None = None,
    days: int = LEAF_DAYS,
    fs: FileSystem = OS,
) -> Issued:
    """Write ``NAME.crt`` and ``NAME.key`` to ``out`` (default ``pki``).

    ``days`` is 1 to ``CA_DAYS``. UsageError, ConflictError (exists), RefusedError, StorageError.
    """
    if role not in get_args(Role):
        raise UsageError(f"role {role!r} is not one of {', '.join(get_args(Role))}")
    check_name(role, name)
    if not 1 <= days <= CA_DAYS:
        raise UsageError(f"{days} days is out of range: 1 to {CA_DAYS}")
    if san and role != "manager":
        raise UsageError(f"--san is for managers: a {role}'s certificate carries no server names")
    names = _alternative_names(role, name, san)
    ca, ca_key = _load_authority(pki, fs)
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    builder = _builder(_subject(role, name), ca.subject, key.public_key(), serial, days)
    not_after = datetime.now(UTC) + timedelta(days=days)
    if not_after > ca.not_valid_after_utc:
        raise RefusedError(
            f"{pki / 'ca.crt'} ends on {ca.not_valid_after_utc:%Y-%m-%d}, before {days} days: use fewer --days"
        )
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(is_ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_usages(role)), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    target = pki if out is None else out
    kept = pki / "issued" / name
    fs.make_dirs(target)
    fs.make_dirs(kept)
    issued = Issued(
        target / f"{name}.crt", target / f"{name}.key", _fingerprint(certificate), certificate.not_valid_after_utc
    )
    _create(
        fs,
        [
            (issued.key, _key_pem(key), _KEY_MODE),
            (kept / f"{serial:040x}.crt", _pem(certificate), _CERTIFICATE_MODE),  # before anybody can use it
            (issued.certificate, _pem(certificate), _CERTIFICATE_MODE),
        ],
    )
    return issued


def revoke(name: str, pki: Path, *, fs: FileSystem = OS) -> list[str]:
    """Deny every certificate that ``name`` got; returns the fingerprints that are new in ``<pki>/deny``.

    RefusedError when there is none, StorageError. One line each: ``fingerprint  # name date``.
    A fingerprint stands there once. Copy the file to the managers (``[tls] deny``).
    """
    check_name("certificate", name)
    kept = pki / "issued" / name
    paths = [kept / entry for entry in fs.list_dir(kept) if entry.endswith(".crt")]
    if (pki / f"{name}.crt").exists() and name != "ca":
        paths.append(pki / f"{name}.crt")
    if not paths:
        raise RefusedError(f"{pki} has issued no certificate for {name!r}: see {pki / 'issued'}")
    deny = pki / "deny"
    text = _read(deny, fs) if deny.exists() else b""
    known = {line.split(b"#")[0].strip().lower().decode(errors="replace") for line in text.splitlines()}
    fresh = [f for f in dict.fromkeys(fingerprint(_read(path, fs)) for path in paths) if f not in known]
    if fresh:
        if text and not text.endswith(b"\n"):
            text += b"\n"
        lines = "".join(f"{f}  # {name} {datetime.now(UTC):%Y-%m-%d}\n" for f in fresh)
        try:
            fs.replace_bytes(deny, text + lines.encode(), _CERTIFICATE_MODE)
        except OSError as error:
            raise StorageError(f"{deny}: {error.strerror}") from error
    return fresh


def fingerprint(pem: bytes) -> str:
    """SHA-256 of the certificate's DER, 64 lower-case hex digits. UsageError when ``pem`` is no certificate."""
    try:
        return _fingerprint(x509.load_pem_x509_certificate(pem))
    except ValueError as error:
        raise UsageError(f"not a certificate: {error}") from error


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def _subject(role: Role, name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "jlogd"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            x509.NameAttribute(NameOID.USER_ID, name),
        ]
    )


def _alternative_names(role: Role, name: str, san: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"jlogd:{role}:{name}")]
    if role == "manager":
        hosts = dict.fromkeys((name, "localhost", MANAGER_SERVER_NAME, "127.0.0.1", *san))
        names.extend(_host(host) for host in hosts)
    return names


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.removeprefix("*.").split(".")
    allowed = all(label and all(c.isascii() and (c.isalnum() or c in "-_") for c in label) for label in labels)
    if not allowed or len(host) > 253:
        raise UsageError(f"{host!r} is neither a host name nor an IP address")
    return x509.DNSName(host)


def _usages(role: Role) -> list[x509.ObjectIdentifier]:
    client = [ExtendedKeyUsageOID.CLIENT_AUTH]
    return [ExtendedKeyUsageOID.SERVER_AUTH, *client] if role == "manager" else client


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, serial: int, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + timedelta(days=days))
    )


def _load_authority(pki: Path, fs: FileSystem) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate_pem, key_pem = _read(pki / "ca.crt", fs), _read(pki / "ca.key", fs)
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = serialization.load_pem_private_key(key_pem, None)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{pki}: ca.crt and ca.key are not a usable pair: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise UsageError(f"{pki}: ca.key is not the key of ca.crt")
    return certificate, key


def _read(path: Path, fs: FileSystem) -> bytes:
    try:
        with fs.open_read(path) as file:
            return file.pread(1 << 20, 0)
    except FileNotFoundError as error:
        raise RefusedError(
            f"{path} does not exist: make an authority with 'managerd pki init {path.parent}'"
        ) from error
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error


def _create(fs: FileSystem, files: list[tuple[Path, bytes, int]]) -> None:
    """Create all ``files`` durably, or none."""
    created: list[Path] = []
    try:
        for path, content, mode in files:
            with fs.create(path, mode) as file:
                created.append(path)
                file.pwrite([content], 0)
                file.datasync()
        for directory in dict.fromkeys(path.parent for path, _, _ in files):
            fs.sync_dir(directory)
    except BaseException as error:
        for path in created:
            fs.unlink(path, missing_ok=True)
        if isinstance(error, FileExistsError):
            raise ConflictError(
                f"{error.filename} exists already and is never overwritten: move it away first"
            ) from error
        if isinstance(error, OSError):
            raise StorageError(f"{error.filename}: {error.strerror}") from error
        raise


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
