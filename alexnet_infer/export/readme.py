"""The README in an exported folder: what the files are, how to prepare an image, and how to run and check the files."""

from __future__ import annotations

import json
from pathlib import Path

from alexnet_infer.engines.files import EnginePlatform
from alexnet_infer.graph.info import CalibrationRecord, ExportInfo
from alexnet_infer.layers import PRE, PROBABILITIES, Layer, find_layers
from alexnet_infer.manifest import Manifest
from alexnet_infer.output import no_markdown
from alexnet_infer.preprocess import ALIASED, FILTERS, TORCHVISION, Preprocessing

SIGNATURE = "written by alexnet-infer from"
"""Marks a README as written by alexnet-infer, which may overwrite it."""

_LRN = {
    "op": "ONNX's LRN node",
    "conv": "a 1x1 convolution of the squares, followed by elementwise operations",
    "plugin": "an `alexnet_infer::GroupedLRN` node, which the ONNX model defines in ONNX operators and alexnet-infer's "
    "TensorRT plugin implements",
}


def readme(
    manifest: Manifest, info: ExportInfo, onnx: Path | None, engine: Path | None, platform: EnginePlatform | None
) -> str:
    """Return the README in Markdown. `onnx`, or `engine` and its `platform`, are None if they were not exported."""
    names = ", ".join(f"`{path.name}`" for path in (onnx, engine) if path is not None)
    kind, shape, meaning = _input(manifest.preprocessing, info)
    layers = find_layers(manifest.architecture, info.outputs)
    batch = info.batch
    sizes = f"always {batch.max}" if batch.fixed else "any number"
    if engine is not None and not batch.fixed:
        sizes = f"{batch.min} to {batch.max}, fastest with {batch.opt}"
        sizes += "; any number in the ONNX file" if onnx is not None else ""
    kind_of_int8 = f" for {'TensorRT' if info.int8_for == 'tensorrt' else 'CPU runtimes'}" if info.int8_for else ""
    parts = [
        f"# {no_markdown(manifest.name)}",
        f"{names}: {SIGNATURE} {_members(info)}. Precision {info.precision}{kind_of_int8}; LRN is {_LRN[info.lrn]}.",
        "| | name | type | shape | values |\n|---|---|---|---|---|\n"
        f"| input | `{'images' if info.takes_squares else 'patches'}` | {kind} | {shape} | {meaning} |\n"
        + "\n".join(
            f"| output | `{layer.name}` | float32 | {_shape(layer)} | {_meaning(layer, info)} |" for layer in layers
        ),
        f"Batch size N: {sizes}.",
        "## Preparing an image",
        _preparation(manifest.preprocessing, info),
    ]
    if onnx is not None:
        parts += ["## Running it", f"```python\n{_example(manifest.preprocessing, info, onnx.name)}```"]
    if platform is not None:
        capabilities = f"compute capability {', '.join(platform.compute_capabilities)}"
        gpus = f"GPUs of {capabilities}" if platform.gpu is None else f"{platform.gpu} ({capabilities})"
        parts.append(
            f"`{engine.name}` runs only in {platform.title} and on {gpus}. An engine is code: run only engines that "
            "you built yourself."
        )
    if info.calibration is not None:
        parts += ["## How it was quantized", _calibration(info.calibration)]
    path = (onnx or engine).name
    if PROBABILITIES in info.outputs:
        compared = f"alexnet-infer compare ORIGINAL.safetensors {path}\n" if len(info.members) == 1 else ""
        commands = f"alexnet-infer classify photo.jpg --model {path}\n{compared}"
    else:
        views = " --views ten" if info.views == "ten" else ""
        layers_given = " ".join(f"--layer {name}" for name in info.outputs)
        commands = f"alexnet-infer features photo.jpg --model {path} {layers_given}{views} -o features.npz\n"
    parts += [
        "## Checking it",
        f"```bash\n{commands}```",
        _metadata(onnx, engine),
    ]
    return "\n\n".join(parts) + "\n"


def _calibration(record: CalibrationRecord) -> str:
    images = f"{len(record.images):,} different images" if len(record.images) > 1 else "one image"
    layers = ", ".join(f"`{no_markdown(name)}`" for name in record.keep_float)
    return (
        f"The ranges of activations were measured on {images} (method: {record.method}). "
        f"{f'In float are the layers {layers}.' if layers else 'No layer is in float.'} "
        "An accuracy that is measured on the same images says little about others: verify the file on images that it "
        "was not calibrated on. The JSON named below lists the images by the first 16 digits of their SHA-256."
    )


def _metadata(onnx: Path | None, engine: Path | None) -> str:
    holders = []
    if onnx is not None:
        holders.append(f"the metadata of `{onnx.name}` (keys `alexnet_infer` and `alexnet_infer_export`)")
    if engine is not None:
        holders.append(f"`{engine.name}.json`")
    return f"The class names, the preprocessing and the export settings are in {' and '.join(holders)}, as JSON."


def _members(info: ExportInfo) -> str:
    nets = [f"{no_markdown(member.name)} (SHA-256 {member.sha256[:16]}...)" for member in info.members]
    return nets[0] if len(nets) == 1 else f"the mean of {len(nets)} nets: {', '.join(nets)}"


def _shape(layer: Layer) -> str:
    return f"[{', '.join(['N', *map(str, layer.shape)])}]"


def _meaning(layer: Layer, info: ExportInfo) -> str:
    if layer.name == PROBABILITIES:
        return f"one per class, sorted by WordNet id{_averaged(info)}"
    kind = "maps: channels, height, width" if len(layer.shape) == 3 else "one per unit"
    return f"{kind}, before the activation{_averaged(info)}" if layer.name.endswith(PRE) else kind + _averaged(info)


def _averaged(info: ExportInfo) -> str:
    averaged = ["ten views"] if info.views == "ten" else []
    averaged += [f"{len(info.members)} nets"] if len(info.members) > 1 else []
    patch = ", for the central patch" if info.views == "center" else ""
    return patch + (f", averaged over {' and '.join(averaged)}" if averaged else "")


def _input(preprocessing: Preprocessing, info: ExportInfo) -> tuple[str, str, str]:
    size, patch = preprocessing.size, preprocessing.patch
    if info.takes_squares:
        return "uint8", f"[N, {size}, {size}, 3]", "RGB, 0 to 255"
    order, values = preprocessing.channel_order, preprocessing.value_range
    return "float32", f"[N, 3, {patch}, {patch}]", f"{order}, {values} minus the training mean"


def _preparation(preprocessing: Preprocessing, info: ExportInfo) -> str:
    size, patch = preprocessing.size, preprocessing.patch
    manner = "without antialiasing, as in OpenCV" if preprocessing.resample == ALIASED else "as in Pillow"
    kind = f"{preprocessing.resample}, {manner}"
    if preprocessing.fit == "stretch":
        text = f"Rescale the image to {size} x {size} pixels and ignore its aspect ratio ({kind})."
    else:
        text = (
            f"Rescale the image so that its shorter side has {size} pixels ({kind}). Crop the central {size} x "
            f"{size} pixels."
        )
        if preprocessing.fit == TORCHVISION:
            text += " Round as torchvision does: the longer side down, the corner of the crop half to even."
    if info.takes_squares:
        what = "probabilities" if info.outputs == (PROBABILITIES,) else "outputs"
        rest = f", cuts ten {patch} x {patch} patches and averages their {what}"
        if info.views == "center":
            rest = f" and cuts the central {patch} x {patch} patch"
        return f"{text} The file does the rest: it subtracts the training mean{rest}."
    classifies = info.outputs == (PROBABILITIES,)
    mean = "the training mean of each pixel, which is in the JSON named at the end of this README"
    if preprocessing.mean.ndim == 1:
        mean = "the training mean (" + ", ".join(f"{value:.3f}" for value in preprocessing.mean) + ")"
    return (
        f"{text} Take {preprocessing.channel_order} values in the range {preprocessing.value_range} and subtract "
        f"{mean}. Then crop the central {patch} x {patch} patch, or crop ten patches (the four corners, the centre "
        f"and their mirror images) and average the ten {'probability vectors' if classifies else 'outputs'}."
    )


def _square_lines(preprocessing: Preprocessing) -> list[str]:
    """Return lines of Python that turn the RGB image `photo` into `square`."""
    size = preprocessing.size
    if preprocessing.resample == ALIASED:
        resized = "Image.fromarray(cv2.resize(np.asarray(photo), sides, interpolation=cv2.INTER_LINEAR))"
    else:
        resized = f"photo.resize(sides, Image.Resampling.{FILTERS[preprocessing.resample].name})"
    if preprocessing.fit == "stretch":
        return [f"sides = ({size}, {size})", f"square = {resized}"]
    if preprocessing.fit == TORCHVISION:
        return [
            f"sides = width, height = [int({size} * side / min(photo.size)) for side in photo.size]",
            f"left, top = round((width - {size}) / 2), round((height - {size}) / 2)",
            f"square = {resized}.crop((left, top, left + {size}, top + {size}))",
        ]
    return [
        f"scale = min(photo.size) / {size}",
        f"sides = width, height = [max({size}, round(side / scale)) for side in photo.size]",
        f"left, top = (width - {size}) // 2, (height - {size}) // 2",
        f"square = {resized}.crop((left, top, left + {size}, top + {size}))",
    ]


def _example(preprocessing: Preprocessing, info: ExportInfo, name: str) -> str:
    size, patch = preprocessing.size, preprocessing.patch
    lines = [
        *(["import cv2"] if preprocessing.resample == ALIASED else []),
        "import numpy as np",
        "import onnxruntime",
        "from PIL import Image, ImageOps",
        "",
        f'session = onnxruntime.InferenceSession("{name}")',
        'photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")',
        *_square_lines(preprocessing),
    ]
    if info.takes_squares:
        feed, source = "images", "np.asarray(square)[None]"
    else:
        feed, source, corner = "patches", "x", (size - patch) // 2
        lines.append("x = np.asarray(square, np.float32)")
        if preprocessing.value_range == "0-1":
            lines.append("x /= 255")
        if preprocessing.channel_order == "BGR":
            lines.append("x = x[:, :, ::-1]")
        if preprocessing.mean.ndim == 1:
            lines.append(f"x = x - np.array({[float(v) for v in preprocessing.mean]}, np.float32)")
        else:
            lines += [
                "import base64",
                "import json",
                'manifest = json.loads(session.get_modelmeta().custom_metadata_map["alexnet_infer"])',
                'mean = base64.b64decode(manifest["preprocessing"]["mean"]["float32"])',
                "x = x - np.frombuffer(mean, np.float32).reshape(x.shape)",
            ]
        lines.append(f"x = x[{corner}:{corner + patch}, {corner}:{corner + patch}].transpose(2, 0, 1)[None]")
    if info.batch.fixed and info.batch.max > 1:
        lines.append(f"{feed} = np.repeat({source}, {info.batch.max}, 0)  # the file takes exactly {info.batch.max}")
        source = feed
    if info.outputs == (PROBABILITIES,):
        lines += [
            f'probabilities = session.run(None, {{"{feed}": {source}}})[0][0]',
            "print(probabilities.argmax(), probabilities.max())",
        ]
    else:
        lines += [
            f"names = {json.dumps(info.outputs)}",
            f'for name, values in zip(names, session.run(names, {{"{feed}": {source}}})):',
            "    print(name, values.shape)",
        ]
    return "\n".join(lines) + "\n"
