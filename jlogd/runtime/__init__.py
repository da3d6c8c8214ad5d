"""What every part stands on and none of it knows about logs: errors, clock, files, settings, threads, daemons.

Layer 0: imports nothing of jlogd but its own siblings.
"""
