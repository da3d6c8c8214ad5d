"""The manager's side of sessions: pure (``session``), gRPC (``service``), the owner of all replicas (``writer``)."""
