"""A node's spool directory: who owns it."""
