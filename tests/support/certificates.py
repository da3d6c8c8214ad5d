"""Certificates that ``managerd pki`` would never issue: expired, of another authority, of another shape."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from jlogd.runtime.rpc import TlsFiles


def files(pki: Path, name: str) -> TlsFiles:
    """A name's files in a pki directory, with its deny list."""
    return TlsFiles(pki / "ca.crt", pki / f"{name}.crt", pki / f"{name}.key", pki / "deny")


def forge(
    pki: Path,
    name: str,
    *,
    uris: tuple[str, ...] = (),
    dns: tuple[str, ...] = (),
    begin_days: float = -10.0,
    end_days: float = 10.0,
) -> TlsFiles:
    """Sign a certificate with the authority in ``pki``, whatever it says; written as ``NAME.crt``, ``NAME.key``."""
    authority = x509.load_pem_x509_certificate((pki / "ca.crt").read_bytes())
    authority_key = serialization.load_pem_private_key((pki / "ca.key").read_bytes(), None)
    assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names += [x509.DNSName(host) for host in dns]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=begin_days))
        .not_valid_after(now + timedelta(days=end_days))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    certificate = builder.sign(authority_key, hashes.SHA256())
    (pki / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (pki / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files(pki, name)
