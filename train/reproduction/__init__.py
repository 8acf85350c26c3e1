"""`python -m train reproduce`: the paper's claims as rows of figures, each from a few training runs.

`experiments.toml` describes runs, scales and rows; `plan` reads it. `runner` starts `python -m train` for each run and
seed that has no record yet, `measure` measures the nets, and `record` keeps the results as small JSON files. `rows`
computes the figures with `intervals`; `page` writes them, and `figures` draws them. `cost` estimates what is missing.
"""
