"""Export trained nets to files for other runtimes."""
