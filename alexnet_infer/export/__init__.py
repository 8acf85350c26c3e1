"""The export job: trained nets to files for other runtimes.

`job` writes them: `alexnet_infer.graph` builds the ONNX model, `quantize` makes int8 with the ranges that the images of
`calibration` give, `engine_build` makes TensorRT engines, `lrn_plugin` is the plugin's kernel, `readme` explains the
files, and `triton` adds them to a Triton model repository. If a change makes the same model give a different engine,
increase `RECIPE` in `engine_build`.
"""
