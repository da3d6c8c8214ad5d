"""Node to manager: the session's node side, pure (``session``) and with its threads (``forwarder``)."""

import os

# gRPC writes each failed handshake to stderr; we say it in one line (``runtime.certificates``). It reads this once,
# when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from jlogd.forward.forwarder import Forwarder

__all__ = ["Forwarder"]
