"""Speed of the full-size net on this CPU in every installed runtime, compared with the limit of the machine.

    python benchmarks/cpu_peers.py [--patches 1 10] [--files DIR] [--seconds 2] [--json]

Runs ONNX Runtime and PyTorch (in both memory layouts), and OpenVINO and OpenCV if installed. The weights are random, so
no file is needed. `--files` also runs the exported ONNX files in a folder in ONNX Runtime and OpenVINO. They must hold
the same architecture and take patches (`export --views none`), in any precision. All runs are interleaved, so that
other load on the machine doesn't change the ratios.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lrn_form import random_net, session

from alexnet_infer.artifact import Artifact
from alexnet_infer.backends.onnxruntime import OnnxRuntimeBackend
from alexnet_infer.benchmark.floor import Machine, probes
from alexnet_infer.benchmark.timing import interleave
from alexnet_infer.graph.file import read_model
from alexnet_infer.graph.net import INPUT, build_onnx
from train.model import AlexNet

Infer = Callable[[np.ndarray], np.ndarray]

REFERENCE = "ONNX Runtime, as used here"


def peers(artifact: Artifact) -> dict[str, Infer]:
    """The functions that run the net, by name: patches [N, 3, 227, 227] -> probabilities [N, 1000]."""
    node = session(artifact, "op")
    infers: dict[str, Infer] = {
        REFERENCE: OnnxRuntimeBackend(artifact, "cpu").infer,
        "ONNX Runtime, LRN node": lambda x: node.run(None, {INPUT: x})[0],
        "PyTorch": in_torch(artifact, torch.contiguous_format),
        "PyTorch, channels last": in_torch(artifact, torch.channels_last),
    }
    if importlib.util.find_spec("openvino"):
        from alexnet_infer.backends.openvino import OpenVinoBackend

        infers["OpenVINO, LRN node"] = OpenVinoBackend(artifact).infer
    if importlib.util.find_spec("cv2"):
        infers["OpenCV, LRN node"] = in_opencv(artifact)
    return infers


def in_torch(artifact: Artifact, layout: torch.memory_format) -> Infer:
    net = AlexNet(artifact.manifest.architecture).eval()
    net.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in artifact.tensors.items()})
    net = net.to(memory_format=layout)

    @torch.inference_mode()
    def infer(x: np.ndarray) -> np.ndarray:
        return net(torch.from_numpy(x).to(memory_format=layout)).softmax(1).numpy()

    return infer


def in_opencv(artifact: Artifact) -> Infer:
    import cv2

    model = np.frombuffer(build_onnx(artifact, "op").SerializeToString(), np.uint8)
    net = cv2.dnn.readNetFromONNX(model)

    def infer(x: np.ndarray) -> np.ndarray:
        net.setInput(x)
        return net.forward()

    return infer


def exported(folder: Path) -> dict[str, Infer]:
    """The functions that run the ONNX files in `folder` in ONNX Runtime and OpenVINO, by name."""
    infers: dict[str, Infer] = {}
    for path in sorted(folder.glob("*.onnx")):
        file = read_model(path)
        infers[f"ONNX Runtime, {path.name}"] = OnnxRuntimeBackend(file, "cpu").infer
        if importlib.util.find_spec("openvino"):
            from alexnet_infer.backends.openvino import OpenVinoBackend

            infers[f"OpenVINO, {path.name}"] = OpenVinoBackend(file).infer
    return infers


def measure(infers: dict[str, Infer], artifact: Artifact, patches: int, seconds: float) -> list[dict]:
    """Return a row for each peer and one for the limit."""
    architecture = artifact.manifest.architecture
    shape = (patches, 3, architecture.patch, architecture.patch)
    x = np.random.default_rng(2).normal(0, 70, shape).astype(np.float32)
    expected = infers[REFERENCE](x)
    runs = [lambda infer=infer: infer(x) for infer in infers.values()]
    rates = probes()
    timings = interleave([*runs, *(probe.run for probe in rates)], seconds=seconds, rounds=10)
    machine = Machine.of(rates, timings[len(runs) :])
    work = {"flops": 2 * patches * architecture.multiply_adds, "nbytes": 4 * architecture.parameters}
    for name, timing in zip(infers, timings, strict=False):
        if not name.endswith(".onnx"):  # an exported file may be of a lower precision
            machine = machine.including(name, seconds=timing.p50, **work)
    limit = machine.floor(patches * architecture.multiply_adds, 4 * architecture.parameters)
    reference = timings[list(infers).index(REFERENCE)].p50
    rows = [
        {
            "peer": name,
            "patches": patches,
            "ms": timing.p50 * 1e3,
            "speed": reference / timing.p50,
            "over_limit": timing.p50 / limit,
            "difference": float(np.abs(infer(x) - expected).max()),
        }
        for (name, infer), timing in zip(infers.items(), timings, strict=False)
    ]
    name = f"limit: {machine.flops / 1e9:.0f} GFLOP/s ({machine.flops_of}), {machine.bandwidth / 1e9:.0f} GB/s"
    return [*rows, {"peer": name, "patches": patches, "ms": limit * 1e3, "speed": reference / limit, "over_limit": 1.0}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patches", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--files", type=Path, help="folder of exported ONNX files of the full-size net")
    parser.add_argument("--seconds", type=float, default=2.0, help="measured time for each row")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    artifact = random_net()
    infers = {**peers(artifact), **(exported(arguments.files) if arguments.files else {})}
    rows = [row for count in arguments.patches for row in measure(infers, artifact, count, arguments.seconds)]
    if arguments.json:
        print(json.dumps(rows))
        return
    width = max(len(row["peer"]) for row in rows)
    print(f"{'':{width}}  patches       ms  speed  over limit  largest difference")
    for row in rows:
        difference = f"{row['difference']:.1e}" if "difference" in row else ""
        print(
            f"{row['peer']:{width}}  {row['patches']:7}  {row['ms']:7.1f}  {row['speed']:5.2f}  "
            f"{row['over_limit']:10.2f}  {difference:>18}"
        )


if __name__ == "__main__":
    main()
