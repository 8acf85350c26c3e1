"""The repository for encoded images, run as Triton runs it: its models, steps and errors.

The Python model runs against a stand-in for Triton's module, the net in ONNX Runtime. A server is another matter:
docs/verified.md.
"""

from __future__ import annotations

import importlib.util
import io
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from alexnet_infer import decode
from alexnet_infer.decode import read_square
from alexnet_infer.errors import SpecError
from alexnet_infer.export.job import ExportRequest, export
from alexnet_infer.export.triton import ServedModel, decode_model, write_repository
from alexnet_infer.nets import load
from alexnet_infer.predict import Net
from tests.export.triton import backend_utils
from tests.export.triton.models import NAME, SIZE, parsed
from tests.nets import random_artifact

ROOT = Path(__file__).parents[3]
TINY_IMAGENET = ROOT.parent / "shared" / "data" / "tiny-imagenet"
DECODE, ENSEMBLE = f"{NAME}_decode", f"{NAME}_jpeg"


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photos() -> dict[str, bytes]:
    """Ten photos, of the formats and properties that a decoder may get wrong."""
    cat, chelsea, coffee = (Image.open(ROOT / "examples" / f"{name}.jpg") for name in ("cat", "chelsea", "coffee"))
    turned = Image.Exif()
    turned[0x0112] = 6  # the orientation: to be rotated by 90 degrees
    wide = np.asarray(coffee.convert("L")).astype(np.uint16) * 257
    alpha = coffee.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(coffee.size))
    return {
        "JPEG": (ROOT / "examples" / "cat.jpg").read_bytes(),
        "progressive JPEG": encoded(chelsea.rotate(10, expand=True), "JPEG", progressive=True, quality=80),
        "grey JPEG": encoded(ImageOps.grayscale(chelsea), "JPEG"),
        "CMYK JPEG": encoded(coffee.convert("CMYK"), "JPEG"),
        "turned JPEG": encoded(chelsea.crop((20, 0, 300, 200)), "JPEG", exif=turned),
        "PNG, portrait": encoded(cat.crop((100, 0, 220, cat.height)), "PNG"),
        "PNG of 16 bits": encoded(Image.fromarray(wide), "PNG"),
        "transparent PNG": encoded(alpha, "PNG"),
        "WebP": encoded(ImageOps.mirror(coffee), "WEBP", quality=70),
        "GIF": encoded(ImageOps.flip(chelsea).quantize(64), "GIF"),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A repository with an exported net of ten views and the models around it."""
    folder = tmp_path_factory.mktemp("triton")
    random_artifact().save(folder / "net.safetensors")
    exported = export(ExportRequest(models=(folder / "net.safetensors",), out=folder / "out", views="ten"))
    model = ServedModel(path=exported.onnx, manifest=exported.manifest, info=exported.info)
    write_repository(folder / "models", model, "jpeg")
    return folder / "models"


@pytest.fixture
def configs(folder, model_config) -> dict[str, Any]:
    return {path.parent.name: parsed(model_config, path.read_text()) for path in folder.glob("*/config.pbtxt")}


@pytest.fixture
def start(folder, configs, monkeypatch) -> Callable[..., Any]:
    """start() -> the model that decodes, loaded as Triton loads it. `change` may change its configuration before."""
    from google.protobuf.json_format import MessageToDict

    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend_utils)

    def start(change: Callable[[dict[str, Any]], object] = lambda config: None) -> Any:
        config = MessageToDict(configs[DECODE], preserving_proto_field_name=True)
        change(config)
        spec = importlib.util.spec_from_file_location("model", folder / DECODE / "1" / "model.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.TritonPythonModel()
        model.initialize(
            {
                "model_config": json.dumps(config),
                "model_instance_kind": "CPU",
                "model_instance_device_id": "0",
                "model_repository": str(folder / DECODE),
                "model_version": "1",
                "model_name": DECODE,
            }
        )
        return model

    return start


def request(*images: bytes) -> backend_utils.InferenceRequest:
    sent = b"".join(struct.pack("<I", len(image)) + image for image in images)
    tensor = backend_utils.deserialize_bytes_tensor(sent).reshape(len(images), 1)
    return backend_utils.InferenceRequest([backend_utils.Tensor("encoded_images", tensor)])


def squares(response: backend_utils.InferenceResponse) -> np.ndarray:
    assert not response.has_error(), response.error().message()
    (tensor,) = response.output_tensors()
    assert tensor.name() == "images"
    return tensor.as_numpy()


def run_ensemble(configs: dict[str, Any], model: Any, session: Any, *images: bytes) -> dict[str, np.ndarray]:
    """Take the steps of the ensemble, and pass tensors between them by the names that it says."""
    tensors = {"encoded_images": request(*images).inputs()[0].as_numpy()}
    for step in configs[ENSEMBLE].ensemble_scheduling.step:
        inputs = {name: tensors[tensor] for name, tensor in step.input_map.items()}
        if step.model_name == DECODE:
            wrapped = [backend_utils.Tensor(name, values) for name, values in inputs.items()]
            (response,) = model.execute([backend_utils.InferenceRequest(wrapped)])
            outputs = {"images": squares(response)}
        else:
            assert step.model_name == NAME
            names = [output.name for output in session.get_outputs()]
            outputs = dict(zip(names, session.run(names, inputs), strict=True))
        tensors |= {tensor: outputs[name] for name, tensor in step.output_map.items()}
    return {output.name: tensors[output.name] for output in configs[ENSEMBLE].output}


def classified(net: Net, image: bytes) -> np.ndarray:
    """Probabilities in the order of the classes: float32 [classes]."""
    labels = sorted(net.classify(image, top=len(net.classes)), key=lambda label: label.index)
    return np.array([label.probability for label in labels], np.float32)


def check_same(folder: Path, configs: dict[str, Any], model: Any, images: list[bytes]) -> None:
    """Check that the ensemble and `classify`, on the exported file, give the same probabilities to the last bit."""
    import onnxruntime

    path = folder / NAME / "1" / "model.onnx"
    net, session = load(path, device="cpu", backend="onnxruntime"), onnxruntime.InferenceSession(path)
    expected = np.stack([classified(net, image) for image in images])
    assert len(np.unique(expected, axis=0)) == len(images)
    for image, row in zip(images, expected, strict=True):
        found = run_ensemble(configs, model, session, image)["probabilities"]
        np.testing.assert_array_equal(found, row[None], strict=True)


def test_ten_photos_get_the_probabilities_of_classify_to_the_last_bit(folder, configs, start):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    check_same(folder, configs, start(), [*photos().values()])


def test_photos_of_tiny_imagenet_get_the_probabilities_of_classify_to_the_last_bit(folder, configs, start):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow: pip install pyarrow")
    paths = sorted(TINY_IMAGENET.rglob("*val*.parquet"))
    if not paths:
        pytest.skip(f"needs Tiny ImageNet in {TINY_IMAGENET}")
    rows = next(parquet.ParquetFile(paths[0]).iter_batches(20, columns=["image"])).column("image").to_pylist()
    check_same(folder, configs, start(), [row["bytes"] for row in rows])


def test_a_request_of_several_images_gives_the_square_of_each_in_order(start):
    images = photos()
    assert len(images) == 10
    rescaling = random_artifact().manifest.preprocessing.rescaling
    expected = np.stack([read_square(image, name=name, rescaling=rescaling) for name, image in images.items()])
    assert len(np.unique(expected, axis=0)) == 10
    (response,) = start().execute([request(*images.values())])
    found = squares(response)
    assert (found.dtype, found.shape) == (np.uint8, (10, SIZE, SIZE, 3))
    np.testing.assert_array_equal(found, expected)


def test_an_image_that_cannot_be_read_fails_its_own_request_with_the_reason(start):
    good, *_ = images = [*photos().values()]
    bad = {
        b"no image": "encoded_images[1]: not an image",
        b"": "encoded_images[1]: empty (0 bytes)",
        images[1][:3000]: "encoded_images[1]: damaged, incomplete or unsupported",
        encoded(Image.new("L", (8000, 5000)), "PNG"): "encoded_images[1]: 8000 x 5000 pixels: expected at most 33,000",
    }
    requests = [request(good), *(request(good, image) for image in bad), request(images[1])]
    first, *failed, last = start().execute(requests)
    assert not np.array_equal(squares(first), squares(last))
    for response, words in zip(failed, bad.values(), strict=True):
        assert response.output_tensors() == []
        assert response.error().code() == backend_utils.TritonError.INVALID_ARG, "which is HTTP's 400, not 500"
        assert response.error().message().startswith(words)
        assert "\n" not in response.error().message()


def test_a_defect_fails_only_the_request_that_met_it(start, monkeypatch):
    model = start()
    good, other, *_ = photos().values()
    real = decode.square_of
    calls = iter([False, True, False])

    def broken(*arguments: Any) -> np.ndarray:
        if next(calls):
            raise MemoryError
        return real(*arguments)

    monkeypatch.setattr(decode, "square_of", broken)
    first, second, third = model.execute([request(good), request(other), request(other)])
    assert (first.has_error(), second.has_error(), third.has_error()) == (False, True, False)
    assert second.error().message().startswith("MemoryError")
    assert second.error().code() == backend_utils.TritonError.INTERNAL


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (SIZE + 1, rf"images: dims=\[{SIZE}, {SIZE}, 3\]: expected to end with \[{SIZE + 1}"),
        (0, "alexnet_infer_rescaling.*size=0: expected a whole number"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_not_loaded(start, size, words):
    def change(config: dict[str, Any]) -> None:
        rescaling = {"size": size, "resample": "bicubic", "fit": "crop"}
        config["parameters"]["alexnet_infer_rescaling"]["string_value"] = json.dumps(rescaling)

    with pytest.raises(SpecError, match=words):
        start(change)


def test_decoding_imports_only_numpy_pillow_and_msgspec():
    """Triton's image needs no other package of alexnet-infer's for it."""
    program = """
import sys
path = sys.argv[1]
exec(compile(open(path, encoding="utf-8").read(), path, "exec"), {"__name__": "model"})
files = [getattr(module, "__file__", None) or "" for module in sys.modules.values()]
print(*{file.rpartition("site-packages/")[2].split("/")[0] for file in files if "site-packages/" in file})
"""
    done = subprocess.run(
        [sys.executable, "-c", program, decode_model.__file__], capture_output=True, text=True, cwd=ROOT, check=True
    )
    packages = {name.removesuffix(".py") for name in done.stdout.split()}
    assert {"numpy", "PIL", "msgspec"} <= packages
    assert packages <= {"alexnet_infer", "numpy", "PIL", "msgspec", "typing_extensions", "_distutils_hack"}
