"""What the server says of itself and its models, in the forms of the Open Inference Protocol and of Triton."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alexnet_infer.serve.limits import Limits
from alexnet_infer.serve.model import Model
from alexnet_infer.serve.protocol import EXTENSIONS, INPUT, OUTPUT, VERSION
from alexnet_infer.version import __version__

PLATFORM = "alexnet-infer"


def of_server() -> dict[str, Any]:
    """Return the answer of GET /v2."""
    return {"name": "alexnet-infer", "version": __version__, "extensions": EXTENSIONS}


def of_model(model: Model) -> dict[str, Any]:
    """Return the answer of GET /v2/models/NAME."""
    side, classes = model.side, len(model.net.classes)
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": PLATFORM,
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, side, side, 3]}],
        "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, classes]}],
    }


def config_of(model: Model, limits: Limits) -> dict[str, Any]:
    """Return the answer of GET /v2/models/NAME/config: Triton's ModelConfig.

    Its parameters are those of `ServedNet`. Dimensions are those of one image. Requests may have more images than
    `max_batch_size`; they are divided.
    """
    parameters = model.served(limits.max_batch).parameters()
    return {
        "name": model.name,
        "platform": "",
        "backend": PLATFORM,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": limits.max_batch,
        "input": [{"name": INPUT, "data_type": "TYPE_UINT8", "dims": [model.side, model.side, 3]}],
        "output": [{"name": OUTPUT, "data_type": "TYPE_FP32", "dims": [len(model.net.classes)]}],
        "dynamic_batching": {"max_queue_delay_microseconds": round(limits.max_delay_ms * 1000)},
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
    }


def index_of(states: Sequence[tuple[Model, str]]) -> list[dict[str, str]]:
    """Return the answer of POST /v2/repository/index: every model, with why it is not ready, or ""."""
    return [
        {
            "name": model.name,
            "version": VERSION,
            "state": "UNAVAILABLE" if reason else "READY",
            "reason": reason,
        }
        for model, reason in states
    ]
