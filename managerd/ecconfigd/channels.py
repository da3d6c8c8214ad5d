"""Channels from one manager to another, on the manager's loop. The same rules as a node's (``runtime.rpc``)."""

import grpc
import grpc.aio

from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.rpc import TlsFiles, channel_credentials, channel_options, require_loopback, secure_channel_options


def open_channel(address: str, tls: TlsFiles | None, *, fs: FileSystem = OS) -> grpc.aio.Channel:
    """``tls`` None: loopback only. SettingsError for unreadable files."""
    if tls is None:
        require_loopback(address)
        return grpc.aio.insecure_channel(address, options=channel_options())
    return grpc.aio.secure_channel(address, channel_credentials(tls, fs=fs), options=secure_channel_options())
