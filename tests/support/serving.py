"""A grpc.aio server on loopback inside the test's own loop, and channels to it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import grpc
import grpc.aio

from jlogd.runtime.rpc import TlsFiles, server_credentials, server_options
from managerd.ecconfigd.channels import open_channel

T = TypeVar("T")
DEADLINE_S = 30.0


def run(coroutine: Coroutine[Any, Any, T], timeout_s: float = DEADLINE_S) -> T:
    """Run it on a loop of its own; TimeoutError when it takes too long."""

    async def limited() -> T:
        async with asyncio.timeout(timeout_s):
            return await coroutine

    return asyncio.run(limited())


@contextlib.asynccontextmanager
async def served(*handlers: grpc.GenericRpcHandler, tls: TlsFiles | None = None) -> AsyncIterator[str]:
    """The address of a server with these handlers."""
    server = grpc.aio.server(options=server_options())
    server.add_generic_rpc_handlers(handlers)
    listen = "127.0.0.1:0"
    port = server.add_insecure_port(listen) if tls is None else server.add_secure_port(listen, server_credentials(tls))
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0.2)


@contextlib.asynccontextmanager
async def channel(address: str, tls: TlsFiles | None = None) -> AsyncIterator[grpc.aio.Channel]:
    """A channel, closed at the end."""
    opened = open_channel(address, tls)
    try:
        yield opened
    finally:
        await opened.close()
