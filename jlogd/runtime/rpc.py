"""gRPC plumbing: credentials, options, who the peer is, the bulk codec, errors ↔ status.

* Nodes demand the DNS name ``manager.jlogd`` in the server's certificate, whatever address
  they dial: Python's client cannot see the peer's certificate, and only managers' carry it.
* Servers demand a client certificate of the same authority; who it is stands in its URI
  ``jlogd:ROLE:NAME``.
* Without TLS only loopback addresses are dialled or served.
* A ``frames`` message is built and taken apart without protobuf; its bytes on the wire are
  valid protobuf all the same (field 3, length-delimited).
"""

import contextlib
import hashlib
import importlib
import ipaddress
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from jlogd.runtime import errors
from jlogd.runtime.errors import JlogdError, SettingsError
from jlogd.runtime.fs import OS, Buffer, FileSystem
from jlogd.v1 import deliver_pb2 as pb

MANAGER_SERVER_NAME = "manager.jlogd"
MESSAGE_MAX = (4 << 20) + (64 << 10)  # 4 MiB of frames and what stands around them
STREAMS_MAX = 16  # of one connection; a node has one, and one that is ending
KEEPALIVE_MS = 10_000
KEEPALIVE_TIMEOUT_MS = 5_000
DELIVER_METHOD = "/jlogd.v1.DeliverService/Deliver"
REASON_KEY = "jlogd-reason"  # trailing metadata of a call that failed: the error's reason, by which callers map it back
ROLES = ("node", "manager", "operator")

# Whoever waits for a message looks around ten times a second, so that Python 2 ran its signal handlers in time. Today a
# signal ends such a wait, and it was a third of what an idle node did. A gRPC that has no such name takes no notice.
with contextlib.suppress(ImportError):
    importlib.import_module("grpc._common").MAXIMUM_WAIT_TIMEOUT = 10.0  # type: ignore[attr-defined]

Options: TypeAlias = list[tuple[str, int | str]]

# The HTTP/2 frame size stays at its default of 16 KiB: measured, 1 MiB costs a third more CPU on the manager.
_COMMON: Options = [
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_send_message_length", MESSAGE_MAX),
    ("grpc.max_receive_message_length", MESSAGE_MAX),
]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. ``deny`` lists fingerprints of certificates that are refused."""

    ca: Path
    cert: Path
    key: Path
    deny: Path | None = None


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Who is at the other end; all but ``address`` are empty without TLS."""

    role: str
    name: str
    fingerprint: str
    address: str


# ---------------------------------------------------------------------- channels and servers


def channel_options() -> Options:
    """For a node's channel to a manager."""
    return [
        *_COMMON,
        ("grpc.enable_http_proxy", 0),  # a proxy of the environment is for browsers, not for logs
        ("grpc.enable_retries", 0),  # sessions are resumed by their own rules
        ("grpc.use_local_subchannel_pool", 1),  # two managers at one address do not share a connection
        ("grpc.min_reconnect_backoff_ms", 5_000),  # also how long one connection attempt may take
    ]


def server_options() -> Options:
    """For a manager's server."""
    return [
        *_COMMON,
        ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),  # nodes ping as often as we do
        ("grpc.so_reuseport", 0),  # a second manager on the port must fail, not share it
        ("grpc.max_concurrent_streams", STREAMS_MAX),
    ]


def open_channel(address: str, tls: TlsFiles | None, *, fs: FileSystem = OS) -> grpc.Channel:
    """A channel to a manager; the files are read now. SettingsError for unreadable files or ``insecure`` elsewhere."""
    if tls is None:
        require_loopback(address)
        return grpc.insecure_channel(address, options=channel_options())
    return grpc.secure_channel(address, channel_credentials(tls, fs=fs), options=secure_channel_options())


def channel_credentials(tls: TlsFiles, *, fs: FileSystem = OS) -> grpc.ChannelCredentials:
    """Our certificate, and the authority that the other side's must be of. SettingsError for unreadable files."""
    ca, cert, key = _read_files(tls, fs)
    return grpc.ssl_channel_credentials(ca, key, cert)


def secure_channel_options() -> Options:
    """As ``channel_options``, and the name that the server's certificate must have."""
    return [*channel_options(), ("grpc.ssl_target_name_override", MANAGER_SERVER_NAME)]


def server_credentials(tls: TlsFiles, *, fs: FileSystem = OS) -> grpc.ServerCredentials:
    """Credentials that demand a client certificate of our authority. SettingsError for unreadable files."""
    ca, cert, key = _read_files(tls, fs)
    return grpc.ssl_server_credentials([(key, cert)], root_certificates=ca, require_client_auth=True)


def split_address(address: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port``. SettingsError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise SettingsError([f"{address!r} is not an address: write host:port"])
    return host.strip("[]"), int(port)


def require_loopback(address: str) -> None:
    """SettingsError unless the address is a loopback one: without TLS anybody could listen or speak."""
    host, _ = split_address(address)
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise SettingsError([f"tls.insecure: {address} is not a loopback address: give ca, cert and key"])


def _read_files(tls: TlsFiles, fs: FileSystem) -> tuple[bytes, bytes, bytes]:
    contents, faults = [], []
    for what, path in (("ca", tls.ca), ("cert", tls.cert), ("key", tls.key)):
        try:
            with fs.open_read(path) as file:
                contents.append(file.pread(1 << 20, 0))
        except OSError as error:
            faults.append(f"tls.{what}: {path}: {error.strerror}")
    if faults:
        raise SettingsError(faults)
    return contents[0], contents[1], contents[2]


# ---------------------------------------------------------------------- who the peer is


def peer_identity(auth: Mapping[str, Iterable[bytes]], address: str) -> PeerIdentity:
    """From a server context's ``auth_context()`` and ``peer()``."""
    fingerprint = ""
    for pem in auth.get("x509_pem_cert", ()):
        fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).hexdigest()
    for name in auth.get("x509_subject_alternative_name", ()):
        role, found = parse_identity(name.decode(errors="replace"))
        if role:
            return PeerIdentity(role, found, fingerprint, address)
    role = "unknown" if fingerprint else ""  # a certificate of our authority without our URI is nobody
    return PeerIdentity(role, "", fingerprint, address)


def parse_identity(uri: str) -> tuple[str, str]:
    """``jlogd:ROLE:NAME`` → (role, name); two empty strings for anything else."""
    scheme, _, rest = uri.removeprefix("URI:").partition(":")
    role, _, name = rest.partition(":")
    return (role, name) if scheme == "jlogd" and role in ROLES and name else ("", "")


# ---------------------------------------------------------------------- bulk codec

FRAMES_TAG: Final = b"\x1a"  # field 3, length-delimited


@dataclass(frozen=True, slots=True)
class Frames:
    """A `frames` message to send: its buffers in order and their total length."""

    buffers: Sequence[Buffer]
    length: int


@dataclass(frozen=True, slots=True)
class Malformed:
    """Bytes that are not a DeliverRequest; the session answers, the codec only says so."""

    problem: str


Request: TypeAlias = pb.DeliverRequest | memoryview | Malformed


def encode_request(request: pb.DeliverRequest | Frames) -> bytes:
    """Serializer of the node's side: one join, no protobuf copy of frames."""
    if isinstance(request, Frames):
        return b"".join((FRAMES_TAG, _varint(request.length), *request.buffers))
    return request.SerializeToString()


def decode_request(wire: bytes) -> Request:
    """Deserializer of the manager's side: a view of the frames where the message is nothing else."""
    if wire[:1] == FRAMES_TAG:
        at = 1
        length = 0
        for shift in range(0, 35, 7):
            if at >= len(wire):
                break
            byte = wire[at]
            at += 1
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                if at + length == len(wire):
                    return memoryview(wire)[at:]
                break
    try:
        request = pb.DeliverRequest.FromString(wire)
    except DecodeError as error:
        return Malformed(f"not a DeliverRequest: {error}")
    return memoryview(request.frames) if request.WhichOneof("message") == "frames" else request


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# ---------------------------------------------------------------------- errors


_NO_CONNECTION: Final = ("failed to connect", "errors resolving", "DNS resolution failed")  # how gRPC's details begin
# What gRPC says of a broken connection → what people read; the first that fits. Words that are not known are left out.
_BROKEN: Final = (
    (("Connection refused",), "it refuses connections, nothing listens there"),
    (("hostname lookup", "DNS resolution", "Domain name not found"), "its name cannot be resolved"),
    (("andshake", "SSL", "CERTIFICATE"), "the TLS handshake failed, see the certificates and clocks of both sides"),
    (("No route to host", "unreachable"), "there is no route to it"),
    (("timed out", "DEADLINE"), "it does not answer"),
    (
        ("closed", "reset", "Broken pipe", "GOAWAY", "keepalive", "RST_STREAM", "ransport", "recvmsg", "sendmsg"),
        "the connection was lost",
    ),
)


def status_code(error: JlogdError) -> grpc.StatusCode:
    """The gRPC status of one of our errors."""
    return grpc.StatusCode[error.status]


def error_of(reason: str, message: str) -> JlogdError:
    """One of our errors again, by its reason; unknown reasons are RefusedError."""
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, JlogdError) and kind.reason == reason:
            return kind([message]) if kind is SettingsError else kind(message)
    return errors.RefusedError(message)


def call_error(error: grpc.RpcError, whom: str) -> JlogdError:
    """The error of a call that failed, by its reason; one that ``whom`` did not answer itself by its status.

    gRPC's own words are for its developers: none of them reaches the message.
    """
    code, details = error.code(), error.details() or ""
    if reason := _reason(error):
        return error_of(reason, details)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineError(f"{whom} did not answer in time")
    if code is grpc.StatusCode.UNAVAILABLE:
        why = next((plain for words, plain in _BROKEN if any(word in details for word in words)), "")
        return errors.UnavailableError(f"{whom} cannot be reached" + (f": {why}" if why else ""))
    if code is grpc.StatusCode.CANCELLED:
        return errors.UnavailableError(f"{whom} ended the call before it was answered: it may be stopping")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return errors.RefusedError(f"{whom} does not serve this call: it keeps no configuration, or is older")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return errors.RefusedError(f"{whom} has more to say or to take than fits into one message: ask for less")
    return JlogdError(f"{whom} failed at it: its log says more")


def never_sent(error: grpc.RpcError) -> bool:
    """Whether the request of a call that failed surely reached nobody: there was no connection to send it over."""
    details = error.details() or ""
    return error.code() is grpc.StatusCode.UNAVAILABLE and not _reason(error) and details.startswith(_NO_CONNECTION)


def _reason(error: grpc.RpcError) -> str:
    pairs: Any = error.trailing_metadata() or ()  # of key and value; the loop's calls have another type for it
    return str(dict(tuple(pairs)).get(REASON_KEY, ""))


# ---------------------------------------------------------------------- our own certificate


def check_own_certificate(
    path: Path, role: str, name: str, *, key: Path | None = None, now: datetime | None = None
) -> None:
    """Before it is used: SettingsError when it is expired, not yet valid, issued to somebody else, or not ``key``'s."""
    moment = now or datetime.now(UTC)
    try:
        # CPython's own decoder (its test helper, there since 2.6): the cryptography package would stay in memory, 20 MB
        decoded = ssl._ssl._test_decode_cert(str(path))  # type: ignore[attr-defined]  # noqa: SLF001
    except OSError as error:  # ssl.SSLError is one
        what = error.strerror if error.errno and not isinstance(error, ssl.SSLError) else "not a PEM certificate"
        raise SettingsError([f"tls.cert: {path}: {what}"]) from error
    begin = datetime.fromtimestamp(ssl.cert_time_to_seconds(decoded["notBefore"]), UTC)
    end = datetime.fromtimestamp(ssl.cert_time_to_seconds(decoded["notAfter"]), UTC)
    uris = [value for kind, value in decoded.get("subjectAltName", ()) if kind == "URI"]
    faults = []
    if moment > end:
        faults.append(f"tls.cert: {path} expired on {end:%Y-%m-%d}: issue a new one")
    if moment < begin:
        faults.append(f"tls.cert: {path} is valid from {begin:%Y-%m-%d %H:%M}Z on: is this machine's clock right?")
    found = next((identity for identity in map(parse_identity, uris) if identity[0]), ("", ""))
    if found != (role, name):
        says = f"{found[0]} {found[1]!r}" if found[0] else "nobody of this fleet"
        faults.append(f"tls.cert: {path} was issued to {says}, the settings say {role} {name!r}")
    if key is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(path, key)
        except (OSError, ssl.SSLError) as error:
            mismatch = isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH"
            what = f"does not belong to the certificate {path}" if mismatch else f"cannot be used: {error}"
            faults.append(f"tls.key: {key} {what}")
    if faults:
        raise SettingsError(faults)
