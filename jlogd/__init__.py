"""jlogd: the node log agent, and the libraries that the manager shares with it.

Layers, imports go downwards only (``tests/unit/test_layers.py`` enforces it):
runtime and v1 (0), pure cores (1), stores and followers (2), shells (3),
``app.py``, ``cli.py`` (4). The map is in ``docs/design.md``.
"""

import os

# gRPC reads both once, when it is imported. It writes each failed handshake to stderr: we say it in one line
# (``runtime.certificates``). And it meddles with fork(): programs that we start would now and then abort before they
# are executed; nothing of ours goes on with gRPC in a forked process.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

__version__ = "0.1.0"
