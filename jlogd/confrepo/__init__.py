"""The configuration repository: files in layers, linear revisions, the view that a node gets of them.

Pure: ``model`` its words, ``paths`` which trees are acceptable, ``formats`` TOML, YAML and JSON as bytes and back,
``layering`` layers → view and which layer gives a value, ``merge`` three-way, per key.
On disk: ``objects`` durable git objects (``loose``, ``packs``, ``packformat``, ``packindex``), ``trees``, ``commits``,
``refs``, ``scope`` what somebody needs of them, ``repository`` revisions with compare-and-set (managers), ``view``
a laid-out revision with its manifest, ``replica`` what a node has and runs. With keys: ``secrets``, ``signing``.
"""
