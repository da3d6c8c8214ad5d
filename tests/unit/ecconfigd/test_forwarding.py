"""What the writer says of a call that is passed on reaches the caller, whenever it says it."""

from dataclasses import dataclass
from typing import Any, cast

import grpc.aio
import pytest

from jlogd.runtime.certificates import DenyList
from jlogd.runtime.errors import RefusedError
from managerd.ecconfigd.calls import Call, Caller, handler_of
from managerd.ecconfigd.forwarding import Forwarding
from managerd.v1 import config_pb2 as pb
from tests.support.serving import channel, run, served

ALICE = Caller("operator", "alice")
TIMES = 100  # the moment counts


@dataclass
class Sender:
    """The context of a caller that sends so many pieces."""

    left: int

    async def read(self) -> Any:
        """The next one."""
        self.left -= 1
        return pb.CommitRequest(piece=bytes(1000)) if self.left >= 0 else grpc.aio.EOF

    def time_remaining(self) -> float:
        """Seconds."""
        return 10.0


@dataclass
class ToWriter:
    """Knows where the writer is."""

    found: grpc.aio.Channel
    writer: str = "m1"

    async def writer_channel(self) -> grpc.aio.Channel:
        """It is here."""
        return self.found


def test_a_refusal_in_the_middle_of_a_commit_comes_through() -> None:
    """Also when it breaks the write of the next piece: never that nobody knows whether it was done."""

    async def refuse(_call: Call, _requests: object) -> None:
        raise RefusedError("no")

    async def story() -> None:
        service = pb.DESCRIPTOR.services_by_name["ConfigService"]
        handler = handler_of(service, {method.name: refuse for method in service.methods}, DenyList(None))
        async with served(handler) as address, channel(address) as opened:
            forwarding = Forwarding(cast("Any", ToWriter(opened)), manager="m2")
            for _ in range(TIMES):
                call = Call(ALICE, cast("Any", Sender(20)))
                first = pb.CommitRequest(header=pb.CommitHeader(message="x"))
                with pytest.raises(RefusedError, match=r"^no$"):
                    await forwarding.stream(call, ALICE, "Commit", first)

    run(story())
