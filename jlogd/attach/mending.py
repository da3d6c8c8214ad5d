"""Directories of a node's configuration that somebody removed under the running process.

What was in them is fetched and laid out again by who needs it; here they are made again, and nothing that was known of
them counts any more. Belongs to the configurer's thread.
"""

import logging

from jlogd.confrepo.replica import OBJECTS, Replica
from jlogd.confrepo.view import REVISIONS

log = logging.getLogger(__name__)

_PLACES = (REVISIONS, f"{OBJECTS}/pack", f"{OBJECTS}/info")


def mend(replica: Replica) -> bool:
    """Whether something was gone. A few looks at the disk when nothing is. StorageError."""
    views = replica.views
    current = views.current()
    gone = [replica.directory / place for place in _PLACES if not (replica.directory / place).is_dir()]
    if current is not None and not views.path(current).is_dir():
        gone.append(views.path(current))
    if not gone:
        return False
    log.error("configuration: %s is gone: made again", ", ".join(map(str, gone)))
    replica.rest()
    replica.doubt()
    with views.storing():
        for place in _PLACES:
            views.fs.make_dirs(replica.directory / place)
    return True
