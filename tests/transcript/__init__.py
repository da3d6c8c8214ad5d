"""Golden text runs of sessions: scripts, what both cores said, and the small world that they ran in."""
