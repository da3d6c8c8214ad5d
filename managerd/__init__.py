"""managerd: the manager consumer daemon; ingests, archives and searches what nodes deliver.

May import jlogd's layers 0-2 and ``jlogd.forward``; jlogd never imports managerd.
"""

import jlogd as _jlogd  # what it sets in the environment must be there before gRPC is imported

__all__: list[str] = []
del _jlogd
