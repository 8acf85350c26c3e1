"""Where rounding errors arise in an int8 net: each layer's share in the error, and each layer's relative error.

    python benchmarks/layer_errors.py --data DATA [--model NET] [--int8-for tensorrt] [--views center] [--images 100]

Without a net, it is the paper's full-size net with random weights, whose errors say nothing about accuracy, but arise
as in a trained one. DATA is a labelled set. `export --keep-float auto` measures the shares on images of its training
split, and `compare --layers` the errors on others, of its validation split.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
from lrn_form import random_net

from alexnet_infer.backends.inner import InnerLayers
from alexnet_infer.datasets import open_images
from alexnet_infer.evaluation.layer_agreement import compare_layers
from alexnet_infer.export.calibration import Calibration
from alexnet_infer.export.job import ExportRequest, export
from alexnet_infer.graph.info import Int8For
from alexnet_infer.nets import find_net
from alexnet_infer.preprocess import Views


def measure(model: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """Export the net in int8, and return the shares and the errors of its layers."""
    calibration = Calibration(source=arguments.data, images=arguments.images, max_drop={"top1": 100.0})
    exported = export(
        ExportRequest(
            models=(model,),
            precision="int8",
            int8_for=arguments.int8_for,
            views=arguments.views,
            lrn="conv",
            calibration=calibration,
            out=folder / "int8",
        )
    )
    nets = InnerLayers(model, arguments.views), InnerLayers(exported.onnx)
    names = [layer.name for layer in nets[0].layers]
    compared = compare_layers(*nets, open_images(arguments.data), names, arguments.images)
    return {
        "net": exported.manifest.name,
        "shares": {layer.layer: layer.share for layer in exported.float_layers.layers},
        "errors": {layer.layer: [layer.difference, layer.cosine] for layer in compared.layers},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--int8-for", choices=get_args(Int8For), default="cpu")
    parser.add_argument("--views", choices=get_args(Views), default="center")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.model is None:
            model = Path(folder) / "random.safetensors"
            random_net().save(model, np.float32)
        else:
            model = find_net(arguments.model)
        result = measure(model, Path(folder), arguments)
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{result['net']}, int8 for {arguments.int8_for}, {arguments.images} images")
    for layer, share in result["shares"].items():
        print(f"{layer:14} {share:6.1%} of the error of the probabilities")
    for layer, (error, cosine) in result["errors"].items():
        print(f"{layer:14} relative error {error:.2g}, cosine {cosine:.6f}")


if __name__ == "__main__":
    main()
