"""The READMEs of models in a repository: how to serve them, send requests and measure."""

from __future__ import annotations

from collections.abc import Sequence

from alexnet_infer.export.triton.config import DECODERS, LABELS
from alexnet_infer.export.triton.decode_model import ENCODED
from alexnet_infer.export.triton.measuring import DECODING_IMAGE, IMAGE, measuring
from alexnet_infer.export.triton.served_model import ServedModel
from alexnet_infer.layers import PROBABILITIES, Layer

_VERSIONS = """\
To add a version, export to the same folder again. Triton loads it at its next start, or automatically with
`--model-control-mode=poll`."""

_NOT_RUN = "The commands with docker follow NVIDIA's documentation; they were not run when alexnet-infer was tested."


def readme(model: ServedModel) -> str:
    """Return the net's README in Markdown."""
    source, kind, dims = model.input
    element = kind.removeprefix("TYPE_")
    values = "square images in RGB, 0 to 255" if model.info.takes_squares else "patches with the mean subtracted"
    return f"""# {model.name}

Written by `alexnet-infer export --triton`.

- Input `{source}`: {element} [N, {", ".join(map(str, dims))}], {values}.
{_outputs(model)}
For clients, the parameters `alexnet_infer` and `alexnet_infer_export` of the configuration have the classes and the
preprocessing. They were written with the first version; digests and precision may have changed since.

## Serve

Run this in the parent folder. {_NOT_RUN}

```bash
{_running(model, IMAGE, model.name)}
```

{_note(model)}

{_VERSIONS}

## Send a request

```python
from pathlib import Path  # needs alexnet-infer and "tritonclient[http]"

import numpy as np
import tritonclient.http as triton
{_example(model)}
{_sending(model, model.name, source, element)}```

{measuring(model, model.name)}"""


def readme_of_ensemble(model: ServedModel) -> str:
    """Return the README, in Markdown, of the ensemble that takes encoded images."""
    name, batch = f"{model.name}_jpeg", model.info.batch
    images = f"[[photo]] * {batch.max}" if batch.fixed else "[[photo]]"
    return f"""# {name}

Written by `alexnet-infer export --triton --input jpeg`.

- Input `{ENCODED}`: BYTES [N, 1], one image per element: the bytes of a JPEG, or of another format that
  `alexnet-infer classify` reads.
{_outputs(model)}
Triton runs `{model.name}_decode`, then `{model.name}`.
The first decodes the images and makes the squares exactly as `alexnet-infer classify` does. If an image cannot be read,
the request fails with the reason.

## Serve

`{model.name}_decode` runs in Triton's Python backend and needs alexnet-infer there.
This takes Triton 24.12 or later: earlier Python backends crash with NumPy 2. Add alexnet-infer to the image, here from
a checkout, and run the server in the parent folder.
{_NOT_RUN}

```bash
docker build -t {DECODING_IMAGE} -f - PATH/TO/alexnet-infer <<'END'
FROM {IMAGE}
RUN --mount=type=bind,target=/alexnet-infer,rw pip install /alexnet-infer
END
{_running(model, DECODING_IMAGE, name, "--shm-size=1g ")}
```

In `{model.name}_decode/config.pbtxt`,

- the parameter `EXECUTION_ENV_PATH` may name a conda environment with alexnet-infer instead, of the Python version of
  the server and packed with conda-pack. Decoding imports only NumPy, Pillow and msgspec;
- `instance_group` sets the number of processes that decode, {DECODERS}. Each takes one request at a time.

{_note(model)}

{_VERSIONS} The other two models stay as they are.

## Send a request

```python
from pathlib import Path  # needs "tritonclient[http]"

import numpy as np
import tritonclient.http as triton

photo = Path("photo.jpg").read_bytes()
inputs = np.array({images}, dtype=object)
{_sending(model, name, ENCODED, "BYTES")}```

{measuring(model, name, encoded=True)}"""


def _outputs(model: ServedModel) -> str:
    batch = model.info.batch
    return f"""\
{"".join(map(_described, model.layers))}- Batch size N: {"always" if batch.fixed else "at most"} {batch.max}.
"""


def _described(layer: Layer) -> str:
    order = f", in the order of [{LABELS}]({LABELS})" if layer.name == PROBABILITIES else ""
    return f"- Output `{layer.name}`: FP32 [{', '.join(['N', *map(str, layer.shape)])}]{order}.\n"


def _running(model: ServedModel, image: str, name: str, options: str = "") -> str:
    gpus = "--gpus all " if model.tensorrt else ""
    return f"""docker run --rm {gpus}{options}-p 8000:8000 -p 8001:8001 -v "$PWD:/models:ro" \\
    {image} tritonserver --model-repository=/models
curl -f localhost:8000/v2/models/{name}/ready  # in another terminal"""


def _sending(model: ServedModel, name: str, source: str, element: str) -> str:
    """Return Python that sends `inputs` and prints the answer."""
    return f"""tensor = triton.InferInput("{source}", list(inputs.shape), "{element}")
tensor.set_data_from_numpy(inputs)
answer = triton.InferenceServerClient("localhost:8000").infer("{name}", [tensor])
{_printing(model.info.outputs)}"""


def _printing(outputs: Sequence[str]) -> str:
    """Return Python that prints what was answered."""
    if PROBABILITIES not in outputs:
        return f'print(answer.as_numpy("{outputs[0]}").mean(0).shape)  # all rows are from the same photo\n'
    return f"""probabilities = answer.as_numpy("{PROBABILITIES}").mean(0)  # all rows are from the same photo
labels = Path("{LABELS}").read_text(encoding="utf-8").splitlines()
for i in np.argsort(-probabilities)[:5]:
    print(f"{{probabilities[i]:.1%}} {{labels[i]}}")
"""


def _example(model: ServedModel) -> str:
    """Return Python that reads one photo and makes `inputs` from it."""
    preprocessing, batch = model.manifest.preprocessing, model.info.batch
    square = f'Path("photo.jpg"), name="photo", rescaling={preprocessing.rescaling}'
    if model.info.takes_squares:
        repeat = batch.max if batch.fixed else 1
        return f"""from alexnet_infer.decode import read_square
from alexnet_infer.preprocess import Rescaling

square = read_square({square})
inputs = np.stack([square] * {repeat})"""
    count = batch.max if batch.fixed or batch.max < 10 else 10
    return f"""from alexnet_infer import load
from alexnet_infer.decode import read_square
from alexnet_infer.preprocess import Rescaling, patches

square = read_square({square})
preprocessing = load("net.safetensors").manifest.preprocessing  # the exported net
inputs = np.resize(patches(square, preprocessing), ({count}, 3, {preprocessing.patch}, {preprocessing.patch}))"""


def _note(model: ServedModel) -> str:
    """Return a note in Markdown that says where the file runs."""
    if model.tensorrt is None:
        return "The server runs the net on a GPU if it has one (`docker run --gpus all`), otherwise on the CPU."
    plugin = " The LRN plugin's code is in the engine, so no library is needed." if model.info.lrn == "plugin" else ""
    return f"""The engine was built by TensorRT {model.tensorrt}. It runs only in that version, on the kind of GPU that
built it. Find the image tag with this version at https://docs.nvidia.com/deeplearning/frameworks/support-matrix, or
print the version in an image with `docker run --rm IMAGE sh -c "ls /usr/lib/*/libnvinfer.so.*"`.{plugin}"""
