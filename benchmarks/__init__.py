"""Measuring programs, each started by hand; see CONTRIBUTING.md."""
