"""Node to manager: the session's node side, pure (``session``) and with its threads (``forwarder``)."""

from jlogd.forward.forwarder import Forwarder

__all__ = ["Forwarder"]
