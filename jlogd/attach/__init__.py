"""Node to manager, beside the delivery of journals: what to run (configuration), and what is run.

``messages`` the words and who calls whom, ``session`` the decisions, ``wire`` ↔ protobuf, ``link`` one session's
threads, ``attacher`` one manager for ever; ``configurer`` what the node does with what managers say. Nothing is
exported here: a manager needs the words only.
"""

import os

# As jlogd.forward, for whoever comes here first: gRPC reads it once, when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
