"""How fast nets run on this machine: timings, the limit that the machine sets, and what is run."""
