"""Measurements: ratios are printed, never asserted in the test run."""
