"""jlogd: the node log agent, and the libraries that the manager shares with it.

Layers, imports go downwards only (``tests/unit/test_layers.py`` enforces it):
runtime and v1 (0), pure cores (1), stores and followers (2), shells (3),
``app.py``, ``cli.py`` (4). The map is in ``docs/design.md``.
"""

__version__ = "0.1.0"
