"""The cost of lower precision: errors of one net in float32, float16 and both kinds of int8 on the same images.

    python benchmarks/quantization_error.py --data DATA [--images 1000] [--views ten] [--precisions fp32 int8-cpu ...]

ONNX Runtime runs all of them on the CPU. DATA needs a training split, from which evenly spaced calibration images are
taken, and a validation split, on which errors are measured. "agree" is the share of images with the same top label as
float32. "moved" is half the mean sum of the absolute differences of probabilities, which is the share of probability
that moved to other classes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime as ort

from alexnet_infer.artifact import Artifact, embedded_model, load_artifact
from alexnet_infer.datasets import LabelledImages, Split, map_classes
from alexnet_infer.decode import read_square
from alexnet_infer.export.quantize import Method, QuantizationOptions, quantize
from alexnet_infer.graph.info import ExportInfo, LRNForm, Member
from alexnet_infer.graph.model import build_model
from alexnet_infer.metrics import topk_correct
from alexnet_infer.preprocess import Views

PRECISIONS = ("fp32", "fp16", "int8-cpu", "int8-tensorrt")
AT_ONCE = 20


def squares(
    artifact: Artifact, data: Path, split: Split, images: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (uint8 [n, S, S, 3], labels [n] in the net's order) for `images` evenly spaced images; None means all."""
    examples = LabelledImages(data, split)
    preprocessing, to_net = artifact.manifest.preprocessing, map_classes(examples.classes, artifact.manifest.classes)
    count = min(images or len(examples), len(examples))
    positions = [i * len(examples) // count for i in range(count)]

    def square(example) -> np.ndarray:
        return read_square(example.data, name=example.name, rescaling=preprocessing.rescaling)

    with ThreadPoolExecutor() as pool:
        for begin in range(0, count, AT_ONCE):
            chunk = list(examples.at(positions[begin : begin + AT_ONCE]))
            yield np.stack(list(pool.map(square, chunk))), np.array([to_net[example.label] for example in chunk])


def build(artifact: Artifact, precision: str, arguments: argparse.Namespace) -> onnx.ModelProto:
    """Return the net as an ONNX graph in a precision, with its views."""
    info = ExportInfo(
        members=(Member(name=artifact.manifest.name, sha256="0" * 64),),
        views=arguments.views,
        precision="fp16" if precision == "fp16" else "fp32",
        lrn=arguments.lrn,
    )
    model = build_model([artifact], info)
    if not precision.startswith("int8"):
        return model
    options = QuantizationOptions(
        method=arguments.method, int8_for=precision.removeprefix("int8-"), keep_float=tuple(arguments.keep_float)
    )
    calibration = squares(artifact, arguments.data, "train", arguments.calibration)
    return quantize(model, (batch for batch, _ in calibration), options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=embedded_model())
    parser.add_argument("--images", type=int, help="number of validation images (default: all)")
    parser.add_argument("--calibration", type=int, default=100, metavar="IMAGES")
    parser.add_argument("--views", choices=get_args(Views), default="ten")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--method", choices=get_args(Method), default=QuantizationOptions().method)
    parser.add_argument("--lrn", choices=get_args(LRNForm), default="conv")
    parser.add_argument("--keep-float", nargs="*", default=(), metavar="LAYER")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    artifact = load_artifact(arguments.model)
    batches = list(squares(artifact, arguments.data, "validation", arguments.images))
    labels = np.concatenate([part for _, part in batches])
    reference, rows = None, {}
    for precision in dict.fromkeys(("fp32", *arguments.precisions)):
        options = ort.SessionOptions()
        options.log_severity_level = 3
        model = build(artifact, precision, arguments).SerializeToString()
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        started = time.perf_counter()
        probabilities = np.concatenate([session.run(None, {"images": images})[0] for images, _ in batches])
        reference = probabilities if reference is None else reference
        rows[precision] = {
            "top1_error": 1 - topk_correct(probabilities, labels, 1) / len(labels),
            "top5_error": 1 - topk_correct(probabilities, labels, 5) / len(labels),
            "agree": float((probabilities.argmax(1) == reference.argmax(1)).mean()),
            "moved": float(np.abs(probabilities - reference).sum(1).mean() / 2),
            "largest_difference": float(np.abs(probabilities - reference).max()),
            "megabytes": len(model) / 1e6,
            "seconds": time.perf_counter() - started,
        }
        if not arguments.json:
            row = rows[precision]
            print(
                f"{precision:14} error {row['top1_error']:7.2%} {row['top5_error']:7.2%}  agree {row['agree']:7.2%}"
                f"  moved {row['moved']:.4f}, at most {row['largest_difference']:.3f}  {row['megabytes']:6.1f} MB",
                flush=True,
            )
    if arguments.json:
        print(json.dumps({"images": len(labels), "views": arguments.views, "method": arguments.method, "rows": rows}))


if __name__ == "__main__":
    main()
