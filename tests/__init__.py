"""The tests. ``unit`` mirrors the packages; see CONTRIBUTING.md for the other folders."""
