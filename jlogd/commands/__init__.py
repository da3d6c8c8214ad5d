"""The command line of ``jlogd``: one file a group, registered by ``jlogd.cli``."""
