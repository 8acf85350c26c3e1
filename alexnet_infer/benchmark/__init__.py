"""How fast nets run on this machine: what is measured, how calls are timed, and the machine's limit."""
