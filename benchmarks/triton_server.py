"""A running Triton server compared with `classify`: do both give the same probabilities for the same photos?

    alexnet-infer export --views ten --triton models --input jpeg     # then serve `models`
    python benchmarks/triton_server.py localhost:8000 models/NAME PHOTO...

Each photo goes to NAME_jpeg as the bytes of its file. `classify` runs the newest model.onnx of models/NAME in ONNX
Runtime on the CPU. A server with a GPU or another runtime differs by rounding. Bytes that are no image must give HTTP
400, also between good requests. Exits with 1 if something differs by more than --tolerance. Needs tritonclient[http].
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from alexnet_infer import load
from alexnet_infer.export.triton.config import ENCODED
from alexnet_infer.export.triton.repository import versions
from alexnet_infer.graph.served import ServedNet
from alexnet_infer.photos import expand
from alexnet_infer.predict import Net

AT_ONCE = 16


def classified(net: Net, photo: bytes) -> np.ndarray:
    """Probabilities in the order of the classes: float32 [classes]."""
    labels = sorted(net.classify(photo, top=len(net.classes)), key=lambda label: label.index)
    return np.array([label.probability for label in labels], np.float32)


def request(photo: bytes) -> list[triton.InferInput]:
    tensor = triton.InferInput(ENCODED, [1, 1], "BYTES")
    return [tensor.set_data_from_numpy(np.array([[photo]], dtype=object))]


def difference(client: triton.InferenceServerClient, name: str, net: Net, photos: list[bytes]) -> float:
    """Largest difference of a probability, for requests that are sent at once with one that must fail among them."""
    sent = [*photos[:1], b"no image", *photos[1:]]
    pending = [client.async_infer(name, request(photo)) for photo in sent]
    largest = 0.0
    for photo, answer in zip(sent, pending, strict=True):
        try:
            found = answer.get_result().as_numpy("probabilities")[0]
        except InferenceServerException as error:
            if photo in photos or error.status() != "400":
                raise
        else:
            assert photo in photos, "bytes that are no image were classified"
            largest = max(largest, float(np.abs(found - classified(net, photo)).max()))
    return largest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", help="HOST:PORT")
    parser.add_argument("model", type=Path, help="models/NAME in the repository that is served")
    parser.add_argument("photos", nargs="+", help="files, folders and patterns")
    parser.add_argument("--tolerance", type=float, default=0.0)
    options = parser.parse_args()

    net = load(options.model / str(versions(options.model)[-1]) / "model.onnx", device="cpu", backend="onnxruntime")
    client = triton.InferenceServerClient(options.server, concurrency=AT_ONCE + 1)
    parameters = client.get_model_config(options.model.name)["parameters"]
    served = ServedNet.from_parameters({key: value["string_value"] for key, value in parameters.items()}, "the server")
    same = served is not None and served.manifest.preprocessing.rescaling == net.rescaling
    photos = [photo.path.read_bytes() for photo in expand(options.photos) if photo.path is not None]
    groups = [photos[start : start + AT_ONCE] for start in range(0, len(photos), AT_ONCE)]
    largest = max(difference(client, f"{options.model.name}_jpeg", net, group) for group in groups)
    agree = "agree" if same else "differ"
    print(f"{len(photos)} photos: largest probability difference {largest:.2g}; parameters {agree}")
    return 0 if same and largest <= options.tolerance else 1


if __name__ == "__main__":
    sys.exit(main())
