"""Signatures of revisions: made with the author's certificate key, checked with the fleet's authority.

Value of the header: base64 of ``length of the DER certificate (4 bytes, big-endian), certificate, ECDSA P-256 SHA-256
signature (DER)`` over the commit object's content without the header. The certificate's validity at the time of the
commit counts, not today's. cryptography is loaded when a signature is made or checked, not before.
"""

from collections.abc import Callable


def sign(content: bytes, cert_pem: bytes, key_pem: bytes) -> bytes:
    """The header's value for ``content``. RefusedError when the key is not the certificate's, or not P-256."""
    raise NotImplementedError


def verify(
    content: bytes, signature: bytes, *, ca_pem: bytes, denied: Callable[[str], bool], author: str, time_s: int
) -> str:
    """Who signed, ``operator:alice``. RefusedError says why the signature is not good."""
    raise NotImplementedError
