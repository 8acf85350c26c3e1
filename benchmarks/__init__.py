"""Programs that measure, each started by hand; see CONTRIBUTING.md."""
