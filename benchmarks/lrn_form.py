"""Ten patches of the full-size net on a CPU: LRN as ONNX's node and as a convolution, and the matrix product limit.

    python benchmarks/lrn_form.py [--json]

The weights are random, so no file is needed. All times are medians over interleaved rounds of one run, so that other
load on the machine doesn't change the ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import onnxruntime as ort

from alexnet_infer.artifact import Artifact
from alexnet_infer.graph.info import LRNForm
from alexnet_infer.graph.net import INPUT, build_onnx
from alexnet_infer.manifest import ClassName, Manifest, Provenance
from alexnet_infer.preprocess import Preprocessing
from alexnet_infer.presets import preset


def random_net() -> Artifact:
    """The paper's net with He-initialised weights."""
    rng = np.random.default_rng(0)
    architecture = preset("alexnet")
    tensors = {
        name: rng.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
        for name, shape in architecture.tensors.items()
    }
    manifest = Manifest(
        name="random",
        architecture=architecture,
        preprocessing=Preprocessing(size=256, patch=architecture.patch, mean=np.zeros(3)),
        classes=tuple(ClassName(wnid=f"n{i:08}", name=str(i)) for i in range(architecture.classes)),
        provenance=Provenance(data="none", recipe={}, seed=0, date="2026-01-01", software="benchmark"),
    )
    return Artifact(manifest, tensors)


def session(artifact: Artifact, form: LRNForm) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    model = build_onnx(artifact, form).SerializeToString()
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def gemm_session(n: int) -> ort.InferenceSession:
    """An n x n x n matrix product in the same runtime, to measure its best arithmetic rate."""
    from onnx import TensorProto, helper, numpy_helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [n, n]) for name in "xy"]
    weights = numpy_helper.from_array(np.random.default_rng(1).standard_normal((n, n), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "gemm", values[:1], values[1:], [weights]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def interleaved_medians(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each. A round calls each four times and discards the first time.

    In the first call, the 240 MB of weights come from memory, because the other runs have evicted them from the cache.
    A net that classifies many photos stays in the cache.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, call in runs.items():
            call()
            for _ in range(3):
                start = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    artifact = random_net()
    rng = np.random.default_rng(2)
    x = rng.normal(0, 70, (10, 3, artifact.manifest.architecture.patch, artifact.manifest.architecture.patch))
    feed = {INPUT: x.astype(np.float32)}
    node, conv, gemm = session(artifact, "op"), session(artifact, "conv"), gemm_session(1536)
    square = {"x": rng.standard_normal((1536, 1536), np.float32)}
    difference = np.abs(node.run(None, feed)[0] - conv.run(None, feed)[0]).max()
    seconds = interleaved_medians(
        {
            "node": lambda: node.run(None, feed),
            "conv": lambda: conv.run(None, feed),
            "gemm": lambda: gemm.run(None, square),
        },
        arguments.rounds,
    )
    rate = 2 * 1536**3 / seconds["gemm"]
    limit = 10 * 2 * artifact.manifest.architecture.multiply_adds / rate
    result = {
        "onnxruntime": ort.__version__,
        "lrn_node_ms": seconds["node"] * 1e3,
        "lrn_conv_ms": seconds["conv"] * 1e3,
        "speedup": seconds["node"] / seconds["conv"],
        "gemm_gflops": rate / 1e9,
        "gemm_limit_ms": limit * 1e3,
        "conv_over_limit": seconds["conv"] / limit,
        "largest_probability_difference": float(difference),
    }
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"ten 227 x 227 patches, full-size net, ONNX Runtime {ort.__version__}, CPU")
    print(f"LRN as ONNX's node      {result['lrn_node_ms']:7.1f} ms")
    print(f"LRN as a convolution    {result['lrn_conv_ms']:7.1f} ms   {result['speedup']:.2f} times faster")
    print(f"limit at the GEMM rate  {result['gemm_limit_ms']:7.1f} ms   ({result['gemm_gflops']:.0f} GFLOP/s measured)")
    print(f"convolution form, relative to the limit: {result['conv_over_limit']:.2f}")
    print(f"largest difference in probability: {result['largest_probability_difference']:.1e}")


if __name__ == "__main__":
    main()
