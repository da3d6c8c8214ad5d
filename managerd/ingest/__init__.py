"""The manager's side of sessions: pure (``session``), gRPC (``service``), the owner of all replicas (``writer``)."""

from managerd.ingest.service import IngestServer

__all__ = ["IngestServer"]
