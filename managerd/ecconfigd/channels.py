"""Channels from one manager to another, on the manager's loop. The same rules as a node's (``runtime.rpc``)."""

from typing import Final

import grpc
import grpc.aio

from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.rpc import (
    Options,
    TlsFiles,
    channel_credentials,
    channel_options,
    require_loopback,
    secure_channel_options,
)

# gRPC's own pauses grow to two minutes; a manager that came back should be found while a commit waits for it.
_REDIAL: Final[Options] = [("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 2_000)]


def open_channel(address: str, tls: TlsFiles | None, *, fs: FileSystem = OS) -> grpc.aio.Channel:
    """``tls`` None: loopback only. SettingsError for unreadable files."""
    if tls is None:
        require_loopback(address)
        return grpc.aio.insecure_channel(address, options=[*channel_options(), *_REDIAL])
    credentials = channel_credentials(tls, fs=fs)
    return grpc.aio.secure_channel(address, credentials, options=[*secure_channel_options(), *_REDIAL])
