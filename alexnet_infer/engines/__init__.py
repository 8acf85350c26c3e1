"""TensorRT and TensorRT-RTX engines as files: their descriptions, this user's cache of trusted ones, the libraries.

`alexnet_infer.export.engine_build` builds them and `alexnet_infer.backends.engine` runs them.
"""
