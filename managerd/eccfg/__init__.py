"""``eccfg``: the command with which people commit configuration and see it arrive on every node."""
