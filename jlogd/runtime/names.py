"""What node, journal, manager, subscriber and subcluster names look like, and how many journals a node has. Pure."""

import re

NAME_RULE = "1-63 of a-z 0-9 . _ -, beginning with a letter or digit"
JOURNALS_MAX = 256  # of one node: journals are purposes (syslog, audit, …), not files
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def is_name(name: str) -> bool:
    """True when ``name`` keeps the rule; such a name is also a safe file name."""
    return _NAME.fullmatch(name) is not None
