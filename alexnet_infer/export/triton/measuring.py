"""`model-analyzer.yaml`: what NVIDIA's Model Analyzer tries, and the commands that start it and perf_analyzer.

The keys are those of Model Analyzer's documentation. Paths are given on the command line, so that a repository can be
moved.
"""

from __future__ import annotations

from alexnet_infer.export.triton.config import QUEUE_DELAY
from alexnet_infer.export.triton.decode_model import ENCODED
from alexnet_infer.export.triton.served_model import ServedModel
from alexnet_infer.graph.info import Batch

ANALYZER = "model-analyzer.yaml"

FOLDER, DATA = "/tmp/model-analyzer", "/tmp/model-analyzer/data.json"
"""Where Model Analyzer writes, and the requests of perf_analyzer."""

IMAGE = "nvcr.io/nvidia/tritonserver:<tag>-py3"
DECODING_IMAGE = "tritonserver-alexnet-infer"
"""The name of the image with alexnet-infer that the ensemble's README builds."""

_TOP = """\
# What NVIDIA's Model Analyzer tries. README.md has the command, which adds the paths. Change the values as you like.
triton_launch_mode: docker
override_output_model_repository: true
objectives:  # of equal weight
  - perf_throughput
  - perf_latency_p99
"""

_CONCURRENCY = "[1, 2, 4, 8, 16, 32]"


def analyzer_of_net(model: ServedModel) -> str:
    """Return Model Analyzer's configuration for the net: all combinations of the values."""
    batch = model.info.batch
    sizes = [1] if batch.fixed else sorted({1, batch.opt, batch.max})  # a fixed batch is one request for perf_analyzer
    batching = f"""\
      dynamic_batching:
        max_queue_delay_microseconds: [0, {QUEUE_DELAY}, {5 * QUEUE_DELAY}]
"""
    return f"""{_TOP}profile_models:
  {model.name}:
    parameters:
      batch_sizes: {sizes}
      concurrency: {_CONCURRENCY}
    model_config_parameters:
      instance_group:
        - kind: KIND_GPU
          count: [1, 2]
{"" if batch.fixed else batching}"""


def analyzer_of_ensemble(model: ServedModel) -> str:
    """Return Model Analyzer's configuration for the ensemble. Its quick search is the one that takes ensembles."""
    return f"""{_TOP}triton_docker_image: {DECODING_IMAGE}
triton_docker_shm_size: 1g
run_config_search_mode: quick
run_config_search_max_concurrency: 32
perf_analyzer_flags:
  input-data: {DATA}
profile_models:
  - {model.name}_jpeg
ensemble_composing_models:
  {model.name}_decode:
    model_config_parameters:
      instance_group:
        - kind: KIND_CPU
          count: [1, 2, 4, 8]
  {model.name}:
    model_config_parameters:
      instance_group:
        - kind: KIND_GPU
          count: [1, 2]
"""


def measuring(model: ServedModel, name: str, *, encoded: bool = False) -> str:
    """Return a section of Markdown: how to measure the model `name`, the net or the ensemble (`encoded`)."""
    batch = model.info.batch
    size = "" if batch.fixed else f" -b {1 if encoded else batch.opt}"
    data = f" \\\n    --input-data {DATA}" if encoded else ""
    return f"""## Measure

`perf_analyzer` measures the running server. Model Analyzer starts servers itself, with the settings in
[{ANALYZER}]({ANALYZER}). Run them in the parent folder, with the `<tag>` of the server:

```bash
mkdir -p {FOLDER}{_writing_data(batch) if encoded else ""}
docker run --rm --net=host -v {FOLDER}:{FOLDER}:ro nvcr.io/nvidia/tritonserver:<tag>-py3-sdk \\
    perf_analyzer -m {name} -i grpc -u localhost:8001{size} --concurrency-range 1:32:4 --percentile 99{data}
docker run --rm --gpus all --net=host -v /var/run/docker.sock:/var/run/docker.sock \\
    -v "$PWD:$PWD:ro" -v {FOLDER}:{FOLDER} nvcr.io/nvidia/tritonserver:<tag>-py3-sdk \\
    model-analyzer profile --config-file "$PWD/{name}/{ANALYZER}" --model-repository "$PWD" \\
    --output-model-repository-path {FOLDER}/models --checkpoint-directory {FOLDER}/checkpoints \\
    --export-path {FOLDER}
```
"""


def _writing_data(batch: Batch) -> str:
    """Return a command that writes the requests of perf_analyzer: a photo, with the length of its file before it."""
    repeated = f" * {batch.max}" if batch.fixed else ""
    return f"""
python3 -c '
import base64, json, struct
from pathlib import Path
photo = Path("photo.jpg").read_bytes()
tensor = base64.b64encode((struct.pack("<I", len(photo)) + photo){repeated}).decode()
Path("{DATA}").write_text(json.dumps({{"data": [{{"{ENCODED}": {{"b64": tensor}}}}]}}))'"""
