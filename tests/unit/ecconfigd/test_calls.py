"""What surrounds every call of the configuration service: identity, denial, silence, errors by their reason."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from jlogd.runtime import errors
from jlogd.runtime.certificates import DenyList
from jlogd.runtime.errors import DeadlineError, JlogdError, NotPermittedError, RefusedError, SettingsError
from jlogd.runtime.rpc import TlsFiles, call_error
from managerd import pki
from managerd.ecconfigd import calls
from managerd.ecconfigd.calls import Call, handler_of
from managerd.v1 import config_pb2 as pb
from managerd.v1 import config_pb2_grpc as pb_grpc
from tests.support import certificates
from tests.support.serving import channel, run, served

SERVICE = pb.DESCRIPTOR.services_by_name["ConfigService"]
Answer = Callable[[Call, Any], Awaitable[Any]]


@contextlib.asynccontextmanager
async def stub_of(answer: Answer, files: dict[str, TlsFiles] | None = None, who: str = "") -> AsyncIterator[Any]:
    """A client of a service whose every method is ``answer``."""
    deny = DenyList(files["m1"].deny if files else None)
    handler = handler_of(SERVICE, dict.fromkeys((method.name for method in SERVICE.methods), answer), deny)
    async with (
        served(handler, tls=files["m1"] if files else None) as address,
        channel(address, files[who] if files else None) as opened,
    ):
        yield pb_grpc.ConfigServiceStub(opened)


async def error_of(call: Awaitable[Any]) -> JlogdError:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return call_error(error, "m1")
    raise AssertionError("the call did not fail")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TlsFiles]:
    """Certificates of a manager, an operator, a node, and of nobody."""
    home = tmp_path_factory.mktemp("pki")
    pki.init(home)
    for role, name in (("manager", "m1"), ("operator", "alice"), ("operator", "mallory"), ("node", "web1")):
        pki.issue(role, name, home)  # type: ignore[arg-type]
    found = {name: certificates.files(home, name) for name in ("m1", "alice", "mallory", "web1")}
    return found | {"nobody": certificates.forge(home, "nobody", uris=("jlogd:king:nobody",))}


KINDS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, JlogdError) and kind.reason
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_comes_back_as_itself_with_its_message(kind: type[JlogdError]) -> None:
    """By its reason: several of them share a gRPC status."""
    said = "über r12: no such file"

    async def fail(_call: Call, _request: object) -> None:
        raise kind([said]) if kind is SettingsError else kind(said)

    async def ask() -> JlogdError:
        async with stub_of(fail) as stub:
            return await error_of(stub.Cat(pb.CatRequest()))

    found = run(ask())
    expected = kind if kind is not JlogdError else JlogdError
    assert (type(found), str(found)) == (expected, said)


def test_what_nobody_foresaw_is_internal_and_says_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    """The traceback is in the manager's log, not on the wire."""

    async def fail(_call: Call, _request: object) -> None:
        raise KeyError("the secret 4711")

    async def ask() -> JlogdError:
        async with stub_of(fail) as stub:
            return await error_of(stub.Cat(pb.CatRequest()))

    found = run(ask())
    assert type(found) is JlogdError
    assert "4711" not in str(found)
    assert "4711" in caplog.text


@pytest.mark.parametrize(
    ("who", "identity"), [("alice", "operator:alice"), ("web1", "node:web1"), ("m1", "manager:m1")]
)
def test_the_caller_is_who_the_certificate_says(files: dict[str, TlsFiles], who: str, identity: str) -> None:
    """And nothing else."""

    async def ask() -> str:
        async with stub_of(say_who, files, who) as stub:
            return str((await stub.Cat(pb.CatRequest())).content, "ascii")

    assert run(ask()) == identity


async def say_who(call: Call, request: Any) -> pb.CatResponse:
    return pb.CatResponse(content=call.for_whom(request.path).identity.encode())


def test_without_tls_everybody_is_the_local_operator() -> None:
    """Loopback only: see runtime.rpc."""

    async def ask() -> str:
        async with stub_of(say_who) as stub:
            return str((await stub.Cat(pb.CatRequest())).content, "ascii")

    assert run(ask()) == "operator:local"


def test_a_certificate_of_no_role_is_nobody(files: dict[str, TlsFiles]) -> None:
    """Of our authority, but without an identity that we know."""

    async def ask() -> JlogdError:
        async with stub_of(say_who, files, "nobody") as stub:
            return await error_of(stub.Cat(pb.CatRequest()))

    assert isinstance(run(ask()), NotPermittedError)


@pytest.mark.parametrize("who", ["alice", "web1"])
def test_only_managers_act_for_others(files: dict[str, TlsFiles], who: str) -> None:
    """An operator who says that somebody else calls is refused, whoever it is."""

    async def ask() -> JlogdError:
        async with stub_of(say_who, files, who) as stub:
            return await error_of(stub.Cat(pb.CatRequest(path="operator:bob")))

    found = run(ask())
    assert isinstance(found, NotPermittedError)
    assert "not a manager" in str(found)


@pytest.mark.parametrize("behalf", ["operator:bob", "node:web2"])
def test_a_manager_acts_for_others(files: dict[str, TlsFiles], behalf: str) -> None:
    """It has checked their certificate."""

    async def ask() -> str:
        async with stub_of(say_who, files, "m1") as stub:
            return str((await stub.Cat(pb.CatRequest(path=behalf))).content, "ascii")

    assert run(ask()) == behalf


@pytest.mark.parametrize("behalf", ["bob", "king:bob", "operator:", "operator:../x", "operator:a b"])
def test_a_manager_acts_for_nobody_who_cannot_be(files: dict[str, TlsFiles], behalf: str) -> None:
    """The word becomes an author: it must be an identity."""

    async def ask() -> JlogdError:
        async with stub_of(say_who, files, "m1") as stub:
            return await error_of(stub.Cat(pb.CatRequest(path=behalf)))

    assert isinstance(run(ask()), RefusedError)


def test_a_denied_certificate_makes_no_call_and_ends_those_that_run(
    files: dict[str, TlsFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once for new calls, at the next look for a call that runs."""
    monkeypatch.setattr(calls, "DENY_CHECK_S", 0.02)
    deny = files["mallory"].deny
    assert deny is not None
    cancelled = asyncio.Event()

    async def for_ever(call: Call, _request: object) -> None:
        try:
            await call.write(pb.WatchResponse(time_ns=1))
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def ask() -> tuple[JlogdError, JlogdError]:
        async with stub_of(for_ever, files, "mallory") as stub:
            watch = stub.Watch(pb.WatchRequest())
            assert (await watch.read()).time_ns == 1
            pki.revoke("mallory", deny.parent)
            running = await error_of(watch.read())
            await cancelled.wait()
            return running, await error_of(stub.Cat(pb.CatRequest()))

    for found in run(ask()):
        assert isinstance(found, NotPermittedError)
        assert "denied" in str(found)


def test_a_caller_who_begins_a_stream_and_says_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """What he held is free again."""
    monkeypatch.setattr(calls, "SILENT_S", 0.05)

    async def listen(call: Call, _requests: object) -> None:
        await call.read()

    async def ask() -> JlogdError:
        async with stub_of(listen) as stub:
            return await error_of(stub.Commit())

    found = run(ask())
    assert isinstance(found, DeadlineError)
    assert "sent nothing" in str(found)


def test_a_caller_who_does_not_read_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flow control stops the writer; the time-out ends it."""
    monkeypatch.setattr(calls, "UNREAD_S", 0.1)
    ended: list[BaseException] = []

    async def pour(call: Call, _request: object) -> None:
        try:
            while True:
                await call.write(pb.ExportResponse(piece=bytes(1 << 20)))
        except BaseException as error:
            ended.append(error)
            over.set()
            raise

    over = asyncio.Event()

    async def ask() -> None:
        async with stub_of(pour) as stub:
            call = stub.Export(pb.ExportRequest())
            await over.wait()
            call.cancel()

    run(ask())
    assert isinstance(ended[0], DeadlineError)


def test_who_goes_away_ends_what_runs_for_him() -> None:
    """A cancelled call is cancelled here."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def linger(_call: Call, _request: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def ask() -> None:
        async with stub_of(linger) as stub:
            call = stub.Cat(pb.CatRequest())
            await begun.wait()
            call.cancel()
            await ended.wait()

    run(ask())
