"""PyTorch files: a torch module compared with the net imported from its weights, and malicious pickles.

Most tests run the program that reads the file in a fork: see `forked`.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from alexnet_infer.artifact import Artifact
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.errors import BackendError, SpecError, UsageError
from alexnet_infer.importing import state_dict, torch_child
from alexnet_infer.importing.state_dict import read_state_dict
from alexnet_infer.presets import variant
from tests.forks import fork
from tests.nets import random_artifact

torch = pytest.importorskip("torch", minversion="2.13")  # older versions are refused

OWT = replace(variant("owt"), kernels=(8, 16, 12, 12, 16), hidden=24, classes=10)


@pytest.fixture(scope="module")
def net():
    from tests.importing.torchvision_net import AlexNet

    torch.manual_seed(1)
    return AlexNet(classes=10, hidden=24, kernels=OWT.kernels).eval()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "net.pth"


@pytest.fixture
def forked(tmp_path, monkeypatch) -> None:
    """The program that reads a file runs in a fork of a process that has imported torch, and is otherwise the same."""

    def run(command: list[str], *, timeout: float, **_: object) -> subprocess.CompletedProcess:
        assert command[:3] == [sys.executable, "-P", torch_child.__file__]
        stderr = tmp_path / "stderr"
        stderr.write_bytes(b"")
        child = fork(read_a_file, command[3:], stderr)
        child.join(timeout)
        assert child.exitcode is not None
        return subprocess.CompletedProcess(command, child.exitcode, stderr=stderr.read_bytes())

    monkeypatch.setattr(state_dict, "subprocess", SimpleNamespace(run=run, TimeoutExpired=subprocess.TimeoutExpired))


def read_a_file() -> None:
    torch_child.main(*sys.argv[1:])


def saved(path: Path, content, **options) -> Path:
    torch.save(content, path, **options)
    return path


def refused(path: Path, *parts: str, architecture=None) -> None:
    with pytest.raises(SpecError) as caught:
        read_state_dict(path, architecture or OWT.build())
    assert str(caught.value).isprintable()
    for part in parts:
        assert part in str(caught.value), str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_the_torch_module_and_the_imported_net_agree(net, path, zipped):
    saved(path, net.state_dict(), _use_new_zipfile_serialization=zipped)
    manifest = random_artifact(OWT).manifest
    artifact = Artifact(manifest, read_state_dict(path, OWT.build()))
    x = np.random.default_rng(0).normal(0, 1, (3, 3, 224, 224)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(x)).softmax(1).numpy()
    assert 0.2 < expected.max() < 0.9999
    np.testing.assert_allclose(ReferenceBackend(artifact).infer(x), expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(("key", "prefix"), [("state_dict", "module."), ("model_state_dict", ""), ("model", "module.")])
def test_the_net_inside_a_training_checkpoint_is_found(net, path, key, prefix):
    weights = {prefix + name: tensor for name, tensor in net.state_dict().items()}
    saved(path, {"epoch": 3, key: weights, "optimizer": {"lr": 0.1}})
    tensors = read_state_dict(path, OWT.build())
    assert np.array_equal(tensors["fc8.weight"], net.state_dict()["classifier.6.weight"].numpy())


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_weights_of_other_precision_become_float32(net, path, dtype):
    saved(path, {name: t.to(getattr(torch, dtype)) for name, t in net.state_dict().items()})
    tensors = read_state_dict(path, OWT.build())
    assert {t.dtype for t in tensors.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(
        tensors["conv1.weight"], net.state_dict()["features.0.weight"].numpy(), rtol=1e-2, atol=1e-4
    )


@pytest.mark.usefixtures("forked")
def test_the_counters_of_batch_norm_are_ignored(path):
    architecture = replace(OWT, normalization="batchnorm", columns=1).build()
    weights = {name: torch.rand(shape) for name, shape in architecture.tensors.items()}
    counters = {f"bn{i}.num_batches_tracked": torch.tensor(7) for i in range(1, 6)}
    tensors = read_state_dict(saved(path, weights | counters), architecture)
    assert {name: t.tolist() for name, t in tensors.items()} == {name: t.tolist() for name, t in weights.items()}


@pytest.mark.usefixtures("forked")
def test_missing_unknown_and_misshapen_tensors_are_refused_with_their_names(net, path):
    weights = dict(net.state_dict())
    refused(saved(path, {**weights, "extra.weight": torch.ones(3)}), "has 9 layers", "extra")
    refused(saved(path, {n: t for n, t in weights.items() if not n.startswith("features.3.")}), "has 7 layers")
    refused(
        saved(path, {n: t for n, t in weights.items() if n != "features.3.bias"}), "missing tensors: features.3.bias"
    )
    wrong = {**weights, "classifier.6.weight": torch.ones(11, 24), "classifier.6.bias": torch.ones(11)}
    refused(saved(path, wrong), "'classifier.6.weight' has shape [11, 24]: expected [10, 24]")


@pytest.mark.usefixtures("forked")
def test_content_that_is_not_a_state_dict_is_refused(net, path):
    refused(saved(path, {}), "contains a dict")
    refused(saved(path, [torch.ones(3)]), "contains a list")
    refused(saved(path, {"a": torch.ones(3), "b": "text"}), "'b' is a str")
    refused(saved(path, {"w.weight": torch.ones(3, 3).to_sparse()}), "not a plain tensor")
    refused(saved(path, {"w.weight": torch.ones(3, dtype=torch.complex64)}), "not a plain tensor")


@pytest.mark.usefixtures("forked")
def test_a_tensor_larger_than_its_file_is_refused_before_it_is_allocated(path):
    # Four bytes that claim to be 4 TB: all strides are zero.
    huge = torch.ones(1).as_strided((2**20, 2**20), (0, 0))
    refused(saved(path, {"fc8.weight": huge}), "claim", "the file has")


def test_a_saved_module_is_refused_with_the_call_to_use_instead(net, path):
    kind = "tests.importing.torchvision_net.AlexNet"
    refused(saved(path, net), f"contains a {kind}: expected a file written by torch.save(net.state_dict(), FILE)")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory can only be limited on Linux")
def test_a_pickle_that_requests_far_more_memory_than_its_file_has_is_refused(path):
    class Greedy:
        def __reduce__(self):
            return bytearray, (6 * 2**30,)

    torch.save({"w.weight": Greedy()}, path)
    refused(path, "torch can't read it as a file of weights (MemoryError)")


def test_a_temporary_folder_that_cannot_be_written_is_not_blamed_on_the_file(net, path, tmp_path, monkeypatch):
    saved(path, net.state_dict())
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # the system refuses to write more, as a full disk does
    try:
        with pytest.raises(
            UsageError, match=r": the temporary folder can't be written \(.*File too lar.*TMPDIR"
        ) as caught:
            state_dict._convert(path, tmp_path / "tensors.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value).startswith(str(tmp_path))
    assert not isinstance(caught.value, SpecError)

    def full():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state_dict.tempfile, "TemporaryDirectory", full)
    with pytest.raises(
        UsageError, match=r"the temporary folder can't be written \(No space left on device\); .*TMPDIR"
    ):
        read_state_dict(path, OWT.build())


@pytest.mark.usefixtures("forked")
def test_a_multi_disk_zip_is_refused(net, path):
    """Found by fuzzing: `is_zipfile` raised the error that is only expected from opening the file."""
    content = bytearray(saved(path, net.state_dict()).read_bytes())
    locator = content.rfind(b"PK\x06\x07")  # of the 64-bit directory; its last field is the number of disks
    end = content.rfind(b"PK\x05\x06")
    if locator < 0:
        locator = end
        content[end:end] = struct.pack("<4sIQI", b"PK\x06\x07", 0, 0, 2)
    else:
        content[locator + 16 : locator + 20] = struct.pack("<I", 2)
    path.write_bytes(content)
    refused(path, "damaged, or not a PyTorch file")


@pytest.mark.usefixtures("forked")
def test_integer_weights_are_refused(net, path):
    weights = dict(net.state_dict())
    refused(saved(path, {**weights, "features.0.weight": weights["features.0.weight"].int()}), "has type int32")


@pytest.mark.usefixtures("forked")
def test_a_compressed_record_is_refused(net, path):
    buffer = io.BytesIO()
    torch.save({"w.weight": torch.zeros(1000, 1000)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for record in source.infolist():
            target.writestr(record.filename, source.read(record))
    refused(path, "compressed records")


class _Harm:
    def __init__(self, canary: Path, how: str) -> None:
        self.canary, self.how = canary, how

    def __reduce__(self):
        match self.how:
            case "system":
                return os.system, (f"touch {self.canary}",)
            case "eval":
                return eval, (f"__import__('pathlib').Path({str(self.canary)!r}).touch()",)
            case _:
                return Path.touch, (self.canary,)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("how", ["system", "eval", "touch"])
@pytest.mark.parametrize("form", ["pickle", "torch, zipped", "torch, old"])
def test_malicious_pickles_run_no_code(path, tmp_path, how, form):
    canary = tmp_path / "canary"
    content = {"conv1.weight": _Harm(canary, how)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization="zipped" in form)
    refused(path, "expected a file written by torch.save(net.state_dict(), FILE)")
    assert not canary.exists()
    # The pickle is malicious: unpickling it creates the file.
    pickle.loads(path.read_bytes()) if form == "pickle" else torch.load(path, weights_only=False)
    assert canary.exists()


def test_a_module_in_the_working_directory_is_not_imported(net, path, tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    (tmp_path / "safetensors.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    read_state_dict(saved(path, net.state_dict()), OWT.build())
    assert not (tmp_path / "canary").exists()


@pytest.mark.usefixtures("forked")
def test_a_file_cut_anywhere_is_refused(net, path):
    saved(path, net.state_dict())
    content = path.read_bytes()
    for cut in (0, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        refused(path)


@pytest.mark.usefixtures("forked")
def test_a_file_that_is_not_pytorch_is_refused(path):
    for content in (b"<!DOCTYPE html><html>", b"\x89PNG\r\n" + bytes(100), bytes(range(256))):
        path.write_bytes(content)
        refused(path, "expected a file written by torch.save(net.state_dict(), FILE)")


def test_a_child_process_that_takes_too_long_is_killed(net, path, monkeypatch):
    monkeypatch.setattr(state_dict, "TIMEOUT", 0.01)
    refused(saved(path, net.state_dict()), "did not read it within 0.01 seconds")


def test_without_torch_the_error_gives_the_install_command(path, monkeypatch):
    path.write_bytes(b"anything")
    monkeypatch.setattr(state_dict, "installed", lambda name: False)
    with pytest.raises(BackendError, match=r'pip install "alexnet-infer\[train\]"'):
        read_state_dict(path, OWT.build())


def test_an_old_torch_is_refused(path, tmp_path, monkeypatch):
    folder = tmp_path / "old"
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text('__version__ = "2.5.1+cpu"')
    (folder / "safetensors").mkdir()
    (folder / "safetensors" / "__init__.py").write_text("")
    (folder / "safetensors" / "torch.py").write_text("save_file = None")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    path.write_bytes(b"anything")
    with pytest.raises(BackendError, match=r"net\.pth: torch 2\.5\.1\+cpu is too old"):
        read_state_dict(path, OWT.build())
    (folder / "torch" / "__init__.py").write_text("raise OSError('libtorch is missing')")
    with pytest.raises(BackendError, match=r"torch can't be imported \(libtorch is missing\)"):
        read_state_dict(path, OWT.build())


def test_torch_is_not_imported_in_the_calling_process(net, path):
    saved(path, net.state_dict())
    code = (
        "import sys; from pathlib import Path; from alexnet_infer.importing.state_dict import read_state_dict; "
        "from alexnet_infer.presets import variant; from dataclasses import replace; "
        f"small = replace(variant('owt'), kernels={OWT.kernels}, hidden=24, classes=10); "
        f"read_state_dict(Path({str(path)!r}), small.build()); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
