"""A net as an ONNX model, built from the spec and the weights without tracing.

`net` is the graph of one net, `model` adds views, ensembles and the description (`info`), and `file` is the model on
disk. Sessions run such models from memory; `alexnet_infer.export` writes them.
"""
