"""Importing full-size nets with 1,000 classes: time, peak memory, and agreement with the original.

    python -m benchmarks.importing [--json] [onnx-caffe onnx-caffenet caffe caffenet torch quantized]

The nets have random weights of realistic size. Ten random patches are run through the original, in ONNX Runtime, OpenCV
or PyTorch, and through the file that `alexnet-infer import` writes. Needs the packages that the tests need.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from alexnet_infer import load
from alexnet_infer.presets import variant
from tests.importing.caffe_files import caffemodel, prototxt
from tests.importing.torchvision_net import AlexNet
from tests.importing.zoo import patches, quantized_zoo, run, zoo_graph
from tests.nets import random_artifact

Original = Callable[[np.ndarray], np.ndarray]
"""Patches float32 [N, 3, side, side], RGB minus the mean -> probabilities [N, 1000]."""


PROGRAM = """
import re
from pathlib import Path
from alexnet_infer.cli import main
try:
    main()
finally:
    print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
"""Runs alexnet-infer and then prints its peak memory, without that of the subprocess that reads PyTorch files."""


def zoo(folder: Path, preset: str) -> tuple[Path, Original]:
    model = zoo_graph(hidden=4096, classes=1000, pool_first=preset == "caffenet")
    path = folder / "zoo.onnx"
    path.write_bytes(model.SerializeToString())
    return path, lambda rgb: run(model, rgb[:, ::-1])


def caffe(folder: Path, preset: str) -> tuple[Path, Original]:
    import cv2

    net = random_artifact(variant(preset))
    tensors = {**net.tensors, "fc8.weight": net.tensors["fc8.weight"] * 6}  # makes some classes stand out
    path, text = folder / "net.caffemodel", folder / "deploy.prototxt"
    path.write_bytes(caffemodel(net.manifest.architecture, tensors))
    text.write_text(prototxt(net.manifest.architecture))
    original = cv2.dnn.readNetFromCaffe(str(text), str(path))

    def infer(rgb: np.ndarray) -> np.ndarray:
        rows = []
        for bgr in rgb[:, ::-1]:
            original.setInput(bgr[None])
            rows.append(original.forward().reshape(-1).copy())
        return np.array(rows)

    return path, infer


def pytorch(folder: Path, preset: str) -> tuple[Path, Original]:
    import torch

    torch.manual_seed(0)
    net = AlexNet().eval()
    path = folder / "net.pth"
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]

    def logits(rgb: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            return net(torch.from_numpy(rgb) / 255 / std)  # torchvision's net takes values from 0 to 1, not grey levels

    net.classifier[-1].weight.data *= 2 / logits(patches(10)).std()
    torch.save(net.state_dict(), path)
    return path, lambda rgb: logits(rgb).softmax(1).numpy()


def quantized(folder: Path, preset: str) -> tuple[Path, Original]:
    path = quantized_zoo(folder, zoo_graph(hidden=4096, classes=1000))
    content = path.read_bytes()
    return path, lambda bgr: run(content, bgr)  # the import keeps the channel order


KINDS: dict[str, tuple[Callable[[Path, str], tuple[Path, Original]], str]] = {
    "onnx-caffe": (zoo, "caffe"),
    "onnx-caffenet": (zoo, "caffenet"),
    "caffe": (caffe, "caffe"),
    "caffenet": (caffe, "caffenet"),
    "torch": (pytorch, "owt"),
    "quantized": (quantized, "caffe"),
}


def measured(kind: str, folder: Path) -> dict[str, float]:
    make, preset = KINDS[kind]
    source, original = make(folder, preset)
    out = folder / ("out.onnx" if kind == "quantized" else "out.safetensors")
    command = [sys.executable, "-c", PROGRAM, "import", str(source), "--as", preset, "-o", str(out)]
    start = time.perf_counter()
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    seconds = time.perf_counter() - start
    net = load(out, device="cpu", backend="onnxruntime", views="center")
    rgb = patches(10, net.manifest.architecture.patch)
    unit = np.float32(1 / 255 if net.manifest.preprocessing.value_range == "0-1" else 1)
    # a quantized file takes one patch at a time
    imported = np.concatenate([net.backend.infer(patch[None] * unit) for patch in rgb])
    return {
        "seconds": seconds,
        "peak_mb": int(lines[-1]) * 1024 / 1e6,
        "difference": float(np.abs(imported - original(rgb)).max()),
        "highest_probability": float(imported.max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", help="any of: " + ", ".join(KINDS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if unknown := [kind for kind in options.kinds if kind not in KINDS]:
        parser.error(f"{', '.join(unknown)}: expected any of {', '.join(KINDS)}")
    for kind in options.kinds or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            row = measured(kind, Path(folder))
        if options.json:
            print(json.dumps({"kind": kind, **row}), flush=True)
        else:
            print(
                f"{kind:14} {row['seconds']:5.1f} s {row['peak_mb']:6.0f} MB   probabilities up to "
                f"{row['highest_probability']:.2f}, largest difference {row['difference']:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
