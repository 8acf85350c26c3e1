"""What Model Analyzer and perf_analyzer get. Neither is run."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys

import pytest

from alexnet_infer.export.triton import write_repository
from alexnet_infer.export.triton.measuring import DATA, analyzer_of_ensemble, analyzer_of_net
from alexnet_infer.graph.info import Batch
from tests.export.triton.backend_utils import deserialize_bytes_tensor
from tests.export.triton.models import NAME, served

GLOBAL = {
    *("triton_launch_mode", "override_output_model_repository", "objectives", "profile_models"),
    *("triton_docker_image", "triton_docker_shm_size", "run_config_search_mode", "run_config_search_max_concurrency"),
    *("perf_analyzer_flags", "ensemble_composing_models"),
}
"""Keys of Model Analyzer's documentation (docs/config.md)."""


def load(text: str) -> dict:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML: pip install pyyaml")
    return yaml.safe_load(text)


def test_model_analyzer_tries_batch_sizes_that_the_net_takes(onnx):
    config = load(analyzer_of_net(onnx))
    assert config.keys() <= GLOBAL
    assert set(config["objectives"]) == {"perf_throughput", "perf_latency_p99"}
    net = config["profile_models"][NAME]
    assert net["parameters"] == {"batch_sizes": [1, 8, 64], "concurrency": [1, 2, 4, 8, 16, 32]}
    assert net["model_config_parameters"].keys() == {"instance_group", "dynamic_batching"}


def test_model_analyzer_does_not_batch_requests_of_a_fixed_batch(tmp_path):
    model = served(tmp_path / "net.onnx", views="ten", batch=Batch(min=4, opt=4, max=4))
    net = load(analyzer_of_net(model))["profile_models"][NAME]
    assert net["parameters"]["batch_sizes"] == [1], "a tensor of four images is one request for perf_analyzer"
    assert net["model_config_parameters"].keys() == {"instance_group"}


def test_model_analyzer_searches_the_ensembles_models(onnx):
    config = load(analyzer_of_ensemble(onnx))
    assert config.keys() <= GLOBAL
    assert config["run_config_search_mode"] == "quick", "the other searches don't take ensembles"
    assert config["profile_models"] == [f"{NAME}_jpeg"]
    assert config["ensemble_composing_models"].keys() == {NAME, f"{NAME}_decode"}
    assert config["perf_analyzer_flags"] == {"input-data": DATA}


@pytest.mark.parametrize("count", [1, 3])
def test_the_readmes_program_writes_the_requests_that_perf_analyzer_reads(tmp_path, count):
    batch = Batch(min=count, opt=count, max=count) if count > 1 else Batch()
    write_repository(tmp_path / "models", served(tmp_path / "net.onnx", views="ten", batch=batch), "jpeg")
    readme = (tmp_path / "models" / f"{NAME}_jpeg" / "README.md").read_text()
    (program,) = re.findall(r"^python3 -c '(.*?)'$", readme, re.DOTALL | re.MULTILINE)
    photo = b"any \0 bytes"
    (tmp_path / "photo.jpg").write_bytes(photo)
    subprocess.run([sys.executable, "-c", program.replace(DATA, str(tmp_path / "data.json"))], cwd=tmp_path, check=True)
    (request,) = json.loads((tmp_path / "data.json").read_text())["data"]
    tensor = base64.b64decode(request["encoded_images"]["b64"])
    assert list(deserialize_bytes_tensor(tensor)) == [photo] * count
