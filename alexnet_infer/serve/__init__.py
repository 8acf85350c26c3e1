"""`alexnet-infer serve`: nets behind HTTP, by the Open Inference Protocol and for photos.

A request's path: `app` routes it, `server` accepts it, `body` reads it, `protocol` turns it into squares (or `photos`
decodes a photo), `batching` collects the squares of many clients into batches, `model` runs them, and `protocol` writes
the answer. `limits` says what is refused, `metrics` counts, `descriptions` says what the models are, `openapi` and
`schemas` describe the routes, and `run` is the process: its socket and its signals.
"""
