"""`python -m train reproduce`: the paper's claims as rows of figures, each from a few training runs.

`experiments.toml` describes scales, runs and rows; `experiments` reads it into a `plan`. `commands` is what the command
does: `state` lists what is missing, in which order to run it and at what `cost`; `runner` starts `python -m train` for
each net without a record, several side by side, and shows them (`watch`); `measure` measures them, and `record` keeps
the results as small JSON files, identified by their `settings`. `rows` computes the figures with `intervals`; `publish`
writes the `page`, with its `command_lines`, and the `figures`.
"""
