"""What only a GPU can show, checked and measured in minutes by one command: `python -m benchmarks.gpu --help`."""
