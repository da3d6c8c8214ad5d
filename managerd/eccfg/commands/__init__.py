"""The command line of ``eccfg``: one file a group of commands, registered by ``managerd.eccfg.cli``."""
