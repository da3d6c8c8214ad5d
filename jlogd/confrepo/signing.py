"""Signatures of revisions: made with the author's certificate key, checked with the fleet's authority.

Value of the header, in base64:

    length of the certificate (4 bytes, big-endian) | certificate (DER) | ECDSA P-256 SHA-256 signature (DER)

The signature covers the commit object's content without the header. It is good when the certificate is of the
authority, is not denied, was valid at the time of the commit, and is the author's (an operator's), or a manager's: that
one replays what another manager took. cryptography is loaded when a signature is made or checked, not before.
"""

import base64
import binascii
import hashlib
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from jlogd.confrepo.commits import SIGNATURE_MAX
from jlogd.runtime.errors import RefusedError
from jlogd.runtime.rpc import parse_identity

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_LENGTH: Final = struct.Struct(">L")
assert _LENGTH.size == 4
_CURVE: Final = "secp256r1"


def sign(content: bytes, cert_pem: bytes, key_pem: bytes) -> bytes:
    """The header's value for ``content``. RefusedError when the key is not the certificate's, or not P-256."""
    from cryptography import x509  # noqa: PLC0415 - a node with signatures = "off" does not load it
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - as above

    try:
        certificate = x509.load_pem_x509_certificate(cert_pem)
        key = serialization.load_pem_private_key(key_pem, None)
    except (ValueError, TypeError) as error:
        raise RefusedError(f"the certificate or key to sign with cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != _CURVE:
        raise RefusedError("the key to sign with is not an EC key on P-256")
    if key.public_key() != certificate.public_key():
        raise RefusedError("the key to sign with does not belong to the certificate")
    der = certificate.public_bytes(serialization.Encoding.DER)
    return base64.b64encode(_LENGTH.pack(len(der)) + der + key.sign(content, ec.ECDSA(hashes.SHA256())))


def verify(
    content: bytes, signature: bytes, *, ca_pem: bytes, denied: Callable[[str], bool], author: str, time_s: int
) -> str:
    """Who signed ``content`` (without the header), as ``operator:alice``. RefusedError says why it is not good."""
    der, mark = _taken_apart(signature)
    certificate = _certificate(der, ca_pem)
    signer = _signer(certificate)
    if signer != author and not signer.startswith("manager:"):
        raise RefusedError(f"the revision of {author} is signed by {signer}")
    if denied(hashlib.sha256(der).hexdigest()):
        raise RefusedError(f"the certificate of {signer} is denied")
    _check_time(certificate, signer, time_s)
    _check_mark(certificate, mark, content, signer)
    return signer


def _taken_apart(signature: bytes) -> tuple[bytes, bytes]:
    """Certificate (DER) and the signature proper."""
    if not signature:
        raise RefusedError("the revision is not signed")
    if len(signature) > SIGNATURE_MAX:
        raise RefusedError(f"the signature has more than {SIGNATURE_MAX} characters")
    try:
        value = base64.b64decode(signature, validate=True)
        (length,) = _LENGTH.unpack_from(value)
    except (binascii.Error, struct.error) as error:
        raise RefusedError("the signature is cut off, or not base64") from error
    der, mark = value[_LENGTH.size : _LENGTH.size + length], value[_LENGTH.size + length :]
    if not mark:
        raise RefusedError("the signature is cut off")
    return der, mark


def _certificate(der: bytes, ca_pem: bytes) -> "Certificate":
    """The certificate, which is of the authority."""
    from cryptography import x509  # noqa: PLC0415 - as in sign
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - as in sign

    try:
        authorities = x509.load_pem_x509_certificates(ca_pem)
    except ValueError as error:
        raise RefusedError(f"the authority's certificate cannot be read: {error}") from error
    try:
        certificate = x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise RefusedError("the signature's certificate cannot be read") from error
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return certificate
    raise RefusedError("the signature's certificate was not issued by our authority")


def _signer(certificate: "Certificate") -> str:
    from cryptography import x509  # noqa: PLC0415 - as in sign

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError, x509.DuplicateExtension):
        uris = []
    found = [identity for uri in uris if (identity := parse_identity(uri))[0]]
    if len(found) != 1:
        raise RefusedError("the signature's certificate does not say who its holder is")
    role, name = found[0]
    if role not in {"operator", "manager"}:
        raise RefusedError(f"the revision is signed by a {role}, {name}: only operators and managers sign")
    return f"{role}:{name}"


def _check_time(certificate: "Certificate", signer: str, time_s: int) -> None:
    try:
        when = datetime.fromtimestamp(time_s, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise RefusedError(f"the revision's time, {time_s} s, is not one") from error
    if not certificate.not_valid_before_utc <= when <= certificate.not_valid_after_utc:
        raise RefusedError(f"the certificate of {signer} was not valid when the revision was made, {when:%F %T} UTC")


def _check_mark(certificate: "Certificate", mark: bytes, content: bytes, signer: str) -> None:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - as in sign
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - as in sign
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - as in sign

    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != _CURVE:
        raise RefusedError(f"the key of {signer} is not on P-256")
    try:
        key.verify(mark, content, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise RefusedError(f"the signature of {signer} does not match: the revision was altered") from None
