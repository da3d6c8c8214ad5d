"""The parts together, from a manager's settings: they begin, answer on one port, end; also when one cannot begin."""

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from jlogd.confrepo.repository import Repository
from jlogd.runtime.errors import JlogdError, SettingsError
from jlogd.runtime.rpc import TlsFiles
from jlogd.v1 import attach_pb2, attach_pb2_grpc
from managerd import pki
from managerd.ecconfigd.ecconfigd import REPOSITORY, Ecconfigd
from managerd.settings import ManagerSettings, load
from managerd.v1 import config_pb2 as pb
from managerd.v1 import config_pb2_grpc as pb_grpc
from tests.support import certificates
from tests.support.serving import channel, run, served


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("pki")
    pki.init(home)
    pki.issue("manager", "m1", home)
    pki.issue("operator", "alice", home)
    pki.issue("node", "web1", home)
    return home


def settings(home: Path, data: Path, more: str = "") -> ManagerSettings:
    data.mkdir(exist_ok=True)
    path = data / "managerd.toml"
    tls = f'[tls]\nca = "{home}/ca.crt"\ncert = "{home}/m1.crt"\nkey = "{home}/m1.key"\n'
    path.write_text(f'[manager]\nname = "m1"\ndata = "."\n{tls}[config]\nwriter = "m1"\n{more}')
    return load(path)


def build(found: ManagerSettings) -> Ecconfigd:
    assert found.config is not None
    return Ecconfigd(found, found.config, epoch=1)


@contextlib.asynccontextmanager
async def serving(home: Path, data: Path, more: str = "") -> AsyncIterator[tuple[Ecconfigd, grpc.aio.Channel]]:
    ecconfigd = build(settings(home, data, more))
    await ecconfigd.begin()
    try:
        async with (
            served(ecconfigd.handler(), tls=certificates.files(home, "m1")) as address,
            channel(address, certificates.files(home, "alice")) as opened,
        ):
            yield ecconfigd, opened
    finally:
        await ecconfigd.end(5.0)


def commit(path: str, text: bytes) -> list[pb.CommitRequest]:
    header = pb.CommitHeader(message="a change", edits=[pb.Edit(put=pb.Put(path=path, mode=0o100644, size=len(text)))])
    return [pb.CommitRequest(header=header), pb.CommitRequest(piece=text)]


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("config-")}


def test_three_services_answer_on_one_port_and_leave_nothing(home: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(home, tmp_path / "m1") as (ecconfigd, opened):
            config = pb_grpc.ConfigServiceStub(opened)
            made = await config.Commit(iter(commit("global/a.toml", b"x = 1\n")))
            assert made.outcome == pb.CommitResponse.OUTCOME_COMMITTED
            assert ecconfigd.status() == {"writer": "m1", "revision": 1, "confirmed": 1, "nodes": 0, "attached": 0}
            with pytest.raises(grpc.aio.AioRpcError) as error:  # it is there, and not for operators
                await pb_grpc.ReplicaServiceStub(opened).Refs(pb.RefsRequest())
            assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
            attach = attach_pb2_grpc.AttachServiceStub(opened).Attach()
            hello = await attach.read()
            assert isinstance(hello, attach_pb2.AttachResponse)
            assert hello.hello.manager == "m1"
            attach.cancel()
            nothing: Any = opened.unary_unary("/managerd.v1.ConfigService/Nothing")
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await nothing(b"")
            assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert threads() == set()
        async with serving(home, tmp_path / "m1") as (ecconfigd, _):
            assert ecconfigd.status()["revision"] == 1

    run(test())


def test_the_operator_checks_of_the_settings_are_asked(home: Path, tmp_path: Path) -> None:
    data = tmp_path / "m1"
    data.mkdir()
    lint = data / "lint"
    lint.write_text("#!/bin/sh\ngrep -n bad -r . | sed 's/$/ is not nice/'; ! grep -q bad -r .\n")
    lint.chmod(0o755)
    for parent in (data, *data.parents):
        if parent == Path(tempfile.gettempdir()):
            break
        parent.chmod(0o755)  # whoever the checks run as must reach the program

    async def test() -> None:
        async with serving(home, data, 'checks = ["lint"]\n') as (_, opened):
            config = pb_grpc.ConfigServiceStub(opened)
            refused = await config.Commit(iter(commit("global/a.txt", b"good\nbad\n")))
            assert refused.outcome == pb.CommitResponse.OUTCOME_REFUSED
            (fault,) = refused.faults
            assert (fault.path, fault.line, fault.problem) == ("global/a.txt", 2, "bad is not nice (check lint)")
            made = await config.Commit(iter(commit("global/a.txt", b"good\n")))
            assert made.outcome == pb.CommitResponse.OUTCOME_COMMITTED

    run(test())


def test_what_began_is_ended_when_the_rest_cannot_begin(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "m1"
    found = settings(home, data)
    (data / REPOSITORY).write_text("this is no directory")

    async def refused() -> None:
        with pytest.raises(JlogdError):
            await build(found).begin()
        assert threads() == set()

    run(refused())
    (data / REPOSITORY).unlink()

    async def late() -> None:
        ecconfigd = build(found)

        async def fail() -> None:
            await asyncio.sleep(0)
            raise SettingsError(["no"])

        monkeypatch.setattr(ecconfigd._service, "begin", fail)
        with pytest.raises(SettingsError):
            await ecconfigd.begin()
        assert threads() == set()
        assert len(asyncio.all_tasks()) == 1

    run(late())
    Repository.open(data / REPOSITORY).close()


def test_tls_files_are_those_of_the_settings(home: Path, tmp_path: Path) -> None:
    ecconfigd = build(settings(home, tmp_path / "m1"))
    assert ecconfigd._store._signer._tls == TlsFiles(home / "ca.crt", home / "m1.crt", home / "m1.key")
