"""The configuration's server: takes commits, validates them, replicates them to the other managers, tells nodes."""
