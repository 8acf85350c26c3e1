"""Measures `alexnet-infer eval`: the pipeline's speed relative to its slower half, decoding speed and peak memory.

    python benchmarks/evaluation.py pipeline --data DATA [--images 2000]    the pipeline, and each half of it alone
    python benchmarks/evaluation.py features --data DATA [--images 2000]    `features` against `eval`, central view
    python benchmarks/evaluation.py decode                                  one core, synthetic photos of ILSVRC's size
    python benchmarks/evaluation.py memory [--images 1000 50000]            peak memory, each in a separate process

`decode` compares alexnet-infer with plain Pillow and, if installed, with simplejpeg and OpenCV. All of them return a
256 x 256 square. All but `memory` time their parts in interleaved rounds and use medians.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_infer.artifact import embedded_model
from alexnet_infer.datasets import LabelledImages
from alexnet_infer.decode import read_square
from alexnet_infer.evaluation.pipeline import predict
from alexnet_infer.evaluation.predictions import (
    About,
    AboutData,
    AboutNet,
    Listed,
    Predictions,
    hash_of,
    open_all,
)
from alexnet_infer.features.compute import FeaturesRequest, compute, load_net
from alexnet_infer.features.images import images_of_set
from alexnet_infer.nets import load
from alexnet_infer.predict import Net
from alexnet_infer.preprocess import Rescaling, patches

BATCH = 16


def predictions(net: Net, folder: str, images: Listed) -> Predictions:
    """Open predictions of `net` for images of any set."""
    count, zeros = len(images), "0" * 64
    about = About(
        net=AboutNet(
            name="net", sha256=zeros, backend="any", parameters=0, classes=net.manifest.classes, deviations=()
        ),
        data=AboutData(
            name="set",
            layout="any",
            split="validation",
            listing=zeros,
            classes=net.manifest.classes,
            images=count,
            sample=None,
            left_out=0,
        ),
        software="any",
        views=net.views,
        batch=BATCH,
        begin=0,
        end=count,
        images=hash_of(images),
    )
    (opened,) = open_all(Path(folder), [about], images)
    return opened


def pipeline(data: LabelledImages, images: int) -> dict[str, float]:
    net, examples = load(), list(data.at(range(images)))
    preprocessing = net.manifest.preprocessing

    def square(example) -> np.ndarray:
        return read_square(example.data, name=example.name, rescaling=preprocessing.rescaling)

    def full() -> None:
        with tempfile.TemporaryDirectory() as folder:
            predict(data, range(images), [(net, predictions(net, folder, data.listed(range(images))))])

    def decode_only() -> None:
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(square, data.at(range(images))):
                pass

    batch = np.concatenate([patches(square(example), preprocessing) for example in examples[:BATCH]])

    def net_only() -> None:
        for _ in range(-(-images // BATCH)):
            net.backend.infer(batch)

    return {
        name: images / s for name, s in medians({"pipeline": full, "decode": decode_only, "net": net_only}, 3).items()
    }


def features(data: LabelledImages, images: int) -> dict[str, float]:
    """Return the seconds that `eval` and `features` take for the same images, from the list to the complete file."""
    evaluated = load(views="center")
    with tempfile.TemporaryDirectory() as folder:
        request = FeaturesRequest(model=embedded_model(), out=Path(folder) / "f.npz")
        net = load_net(request)

        def evaluate() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as cache:
                listed = data.listed(range(images))
                predict(data, range(images), [(evaluated, predictions(evaluated, cache, listed))])

        def compute_features() -> None:
            compute(request, net, images_of_set(data, range(images), data.root))

        return medians({"eval": evaluate, "features": compute_features}, 7)


def medians(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each. Each round runs all of them once."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, call in runs.items():
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def photo(seed: int, width: int = 500, height: int = 375) -> bytes:
    """A synthetic JPEG of quality 95 with a spectrum like a photo's: the amplitude falls with the frequency."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1
    waves = rng.standard_normal((3, *frequency.shape)) + 1j * rng.standard_normal((3, *frequency.shape))
    grey = np.fft.irfft2(waves / frequency**1.2, (height, width))
    grey[1:] = grey[:1] + 0.2 * grey[1:]  # the channels of a photo are correlated
    levels = 128 + 50 * (grey - grey.mean()) / grey.std()
    stream = io.BytesIO()
    Image.fromarray(levels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def decoders(size: int) -> dict[str, Callable[[bytes], np.ndarray]]:
    def plain_pillow(data: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        scale = size / min(image.size)
        image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
        left, top = ((side - size) // 2 for side in image.size)
        return np.asarray(image.crop((left, top, left + size, top + size)))

    functions = {
        "alexnet-infer": lambda data: read_square(data, name="", rescaling=Rescaling(size=size), apply_exif=False),
        "Pillow": plain_pillow,
    }
    try:
        import simplejpeg
    except ImportError:
        print("simplejpeg is not installed: skipped", file=sys.stderr)
    else:
        from alexnet_infer.preprocess import central_square

        functions["simplejpeg + Pillow's resize"] = lambda data: central_square(
            Image.fromarray(simplejpeg.decode_jpeg(data)), size
        )
    try:
        import cv2
    except ImportError:
        print("OpenCV is not installed: skipped", file=sys.stderr)
    else:
        cv2.setNumThreads(1)

        def opencv(data: bytes) -> np.ndarray:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
            scale = size / min(image.shape[:2])
            height, width = (round(side * scale) for side in image.shape[:2])
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
            top, left = (height - size) // 2, (width - size) // 2
            return image[top : top + size, left : left + size]

        functions["OpenCV (area filter)"] = opencv
    return functions


def decode(images: int) -> dict[str, dict[str, float]]:
    photos, functions = [photo(seed) for seed in range(images)], decoders(256)

    def run(decoder: Callable[[bytes], np.ndarray]) -> Callable[[], None]:
        def decode_all() -> None:
            for data in photos:
                decoder(data)

        return decode_all

    seconds = medians({name: run(decoder) for name, decoder in functions.items()}, 5)
    expected = functions["alexnet-infer"](photos[0]).astype(int)
    return {
        name: {
            "images_per_second": images / seconds[name],
            "largest_difference": int(np.abs(decoder(photos[0]).astype(int) - expected).max()),
        }
        for name, decoder in functions.items()
    }


def peak_memory(images: int) -> int:
    """Peak memory, in MiB, of an evaluation of `images` synthetic images with the center view. Linux counts in KiB."""
    net = load(views="center")
    data = [photo(seed, 64, 64) for seed in range(50)]

    class Synthetic:
        root = Path()

        def at(self, positions: Sequence[int], on_error: str = "raise"):
            from alexnet_infer.datasets import Example

            return (Example(name=f"{i}", data=data[i % len(data)], label=0) for i in positions)

    with tempfile.TemporaryDirectory() as folder:
        results = predictions(net, folder, [(f"{i}", 0) for i in range(images)])
        predict(Synthetic(), range(images), [(net, results)])
        for _ in results.chunks():
            pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("pipeline", "features", "decode", "memory"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int, nargs="+")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.what in ("pipeline", "features"):
        if arguments.data is None:
            parser.error(f"{arguments.what} needs --data")
        data = LabelledImages(arguments.data, "validation")
        images = (arguments.images or [len(data)])[0]
    if arguments.what == "pipeline":
        result: dict = pipeline(data, images)
        result["pipeline_over_slower_half"] = result["pipeline"] / min(result["decode"], result["net"])
    elif arguments.what == "features":
        result = features(data, images)
        result["features_over_eval"] = result["features"] / result["eval"]
    elif arguments.what == "decode":
        result = decode((arguments.images or [50])[0])
    elif arguments.inside:
        print(peak_memory(arguments.images[0]))
        return
    else:
        result = {}
        for images in arguments.images or (1000, 50_000):
            command = [sys.executable, *sys.argv[:1], "memory", "--inside", "--images", str(images)]
            result[f"{images}_images_mb"] = int(subprocess.run(command, check=True, capture_output=True).stdout)
    print(json.dumps(result) if arguments.json else "\n".join(f"{name:32} {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
