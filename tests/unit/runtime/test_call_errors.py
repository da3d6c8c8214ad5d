"""Errors of calls, as whoever called reads them: one plain sentence, and whether the request can have arrived."""

from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from jlogd.runtime.errors import DeadlineError, JlogdError, NotPermittedError, RefusedError, UnavailableError
from jlogd.runtime.rpc import REASON_KEY, call_error, channel_options, never_sent
from tests.support.fleet import free_port

RAW = ("UNKNOWN", "ipv4", "ipv6", "last error", "RST_STREAM", "recvmsg", "hostname lookup", "StatusCode")
NONE = "failed to connect to all addresses; last error: "


class Failed(grpc.RpcError):
    """What grpc raises: a status, its words, the trailing metadata."""

    def __init__(self, code: grpc.StatusCode, details: str, reason: str = "") -> None:
        self._code, self._details = code, details
        self._trailing = ((REASON_KEY, reason),) if reason else ()

    def code(self) -> grpc.StatusCode:
        """As grpc has it."""
        return self._code

    def details(self) -> str:
        """As grpc has it."""
        return self._details

    def trailing_metadata(self) -> Any:
        """As grpc has it."""
        return self._trailing


@pytest.fixture
def dying() -> Iterator[str]:
    """Address of a server that fails in one of grpc's own ways, named by the method."""

    def answer(request: bytes, context: Any) -> bytes:
        if request == b"large":
            return b"x" * (8 << 20)
        raise KeyError("inside")

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait(10)


def failing(address: str, request: bytes = b"", timeout_s: float = 20.0) -> grpc.RpcError:
    """The error of a call to ``address``."""
    with grpc.insecure_channel(address, options=channel_options()) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/test/Call", bytes, bytes)(request, timeout=timeout_s)
    return caught.value


def test_nobody_listens() -> None:
    """What grpc says ("failed to connect to all addresses; last error: …") reaches nobody."""
    address = f"127.0.0.1:{free_port()}"
    error = failing(address)
    assert never_sent(error)
    said = call_error(error, address)
    assert isinstance(said, UnavailableError)
    assert str(said) == f"{address} cannot be reached: it refuses connections, nothing listens there"


def test_a_name_that_is_none() -> None:
    error = failing("nobody.invalid:7440")
    assert never_sent(error)
    assert str(call_error(error, "m1")) == "m1 cannot be reached: its name cannot be resolved"


@pytest.mark.parametrize("request_", [b"", b"large"])
def test_a_manager_that_fails_in_grpcs_own_ways(dying: str, request_: bytes) -> None:
    """The words are ours."""
    error = failing(dying, request_)
    assert not never_sent(error)
    said = call_error(error, "m1")
    assert not [raw for raw in RAW if raw in str(said)], said
    assert "KeyError" not in str(said)
    assert "m1" in str(said)


@pytest.mark.parametrize(
    ("details", "says"),
    [
        ("Socket closed", "the connection was lost"),
        ("recvmsg:Connection reset by peer", "the connection was lost"),
        ("GOAWAY received; Error code: 2; Debug Text: max_age", "the connection was lost"),
        ("keepalive timeout", "the connection was lost"),
        (
            f"{NONE}UNKNOWN: ipv4:192.0.2.1:1: Ssl handshake failed: CERTIFICATE_VERIFY_FAILED",
            "the TLS handshake failed",
        ),
        (f"{NONE}UNKNOWN: ipv6:%5B::1%5D:1: No route to host", "there is no route"),
        (f"{NONE}DEADLINE_EXCEEDED: ipv4:192.0.2.1:1: connection attempt timed out", "does not answer"),
        ("what a later grpc may say: UNKNOWN: ipv4:", "m1 cannot be reached"),
    ],
)
def test_what_grpc_says_of_a_connection(details: str, says: str) -> None:
    """Known words become plain ones, unknown ones are left out."""
    error = Failed(grpc.StatusCode.UNAVAILABLE, details)
    said = call_error(error, "m1")
    assert isinstance(said, UnavailableError)
    assert says in str(said)
    assert str(said).startswith("m1 cannot be reached")
    assert not [raw for raw in RAW if raw in str(said)], said
    assert never_sent(error) == details.startswith("failed to connect")


def test_what_a_manager_says_itself_comes_through() -> None:
    """By its reason, word for word; such a call did arrive."""
    error = Failed(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses", "unavailable")
    assert str(call_error(error, "m1")) == "failed to connect to all addresses"
    assert not never_sent(error)
    denied = call_error(Failed(grpc.StatusCode.PERMISSION_DENIED, "no", "not_permitted"), "m1")
    assert isinstance(denied, NotPermittedError)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineError),
        (grpc.StatusCode.CANCELLED, UnavailableError),
        (grpc.StatusCode.UNIMPLEMENTED, RefusedError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, RefusedError),
        (grpc.StatusCode.INTERNAL, JlogdError),
    ],
)
def test_every_status_has_its_error(code: grpc.StatusCode, kind: type[JlogdError]) -> None:
    """None tells grpc's own words."""
    said = call_error(Failed(code, "Received RST_STREAM with error code 2"), "m1")
    assert type(said) is kind
    assert not [raw for raw in RAW if raw in str(said)], said
    assert str(said).startswith("m1 ")
