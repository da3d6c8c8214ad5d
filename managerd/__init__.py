"""managerd: the manager consumer daemon; ingests, archives and searches what nodes deliver.

May import jlogd's layers 0-2 and ``jlogd.forward``; jlogd never imports managerd.
"""
