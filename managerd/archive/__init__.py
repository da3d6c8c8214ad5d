"""The manager's copy of every node's journals: ``<data>/archive/<node>/<journal>/0001-<journal id hex>/``."""

from managerd.archive.archive import Archive, Replica

__all__ = ["Archive", "Replica"]
