"""The command line of ``managerd``: one file a group, registered by ``managerd.cli``."""
