"""Benchmark programs, each run by hand; see CONTRIBUTING.md."""
