"""Model repositories for NVIDIA's Triton Inference Server, with an exported ONNX file or TensorRT engine.

    DIR/<name>/config.pbtxt           the model's input and output, and how requests are batched
    DIR/<name>/labels.txt             one class name per line, in the order of the outputs
    DIR/<name>/README.md              how to serve the model, send requests and measure
    DIR/<name>/model-analyzer.yaml    what NVIDIA's Model Analyzer tries
    DIR/<name>/1/model.onnx           versions: 1, 2, ...

With `--input jpeg`, two more models take encoded images instead of squares:

    DIR/<name>_decode/    encoded images -> squares: `decode_model.py`, which Triton's Python backend runs
    DIR/<name>_jpeg/      an ensemble: first <name>_decode, then <name>

`served_model` is the file to serve, `entries` says what is in each model's folder, `config` and `readme` are the texts
in it, and `repository` writes the folders.
"""

from alexnet_infer.export.triton.entries import Input, check_input
from alexnet_infer.export.triton.repository import write_repository
from alexnet_infer.export.triton.served_model import ServedModel, check_batch

__all__ = ["Input", "ServedModel", "check_batch", "check_input", "write_repository"]
