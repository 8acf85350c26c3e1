"""`eval --on ray` on a real cluster of two workers on this machine, compared with a single machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from alexnet_infer.artifact import sha256
from alexnet_infer.datasets import open_images
from alexnet_infer.errors import AlexNetInferError, BackendError, UnreadableInputError, UsageError
from alexnet_infer.evaluation import compute as compute_module
from alexnet_infer.evaluation import on_ray
from alexnet_infer.evaluation.compute import EvaluationRequest, compute
from alexnet_infer.evaluation.on_ray import PART, Work, Worker, predict_on_ray
from alexnet_infer.evaluation.predictions import ABOUT, IMAGES, ROWS, About, Predictions
from alexnet_infer.nets import load
from alexnet_infer.pipeline import STAGES, Clock
from alexnet_infer.version import __version__
from tests.datasets.mini import jpeg
from tests.evaluation.toys import opened
from tests.nets import TINY, random_artifact

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
# Ray warns about its own settings when it reads their defaults.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`use_(push_based_shuffle|polars|arrow_tensor_v2)` is deprecated:DeprecationWarning:ray.data.context"
)

BATCH, COUNT, BROKEN = 2, 75, 41
"""Five parts, the last of them short and with half a batch at its end."""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Start a cluster with room for two workers, each of which takes as many cores as this machine has."""
    ray = pytest.importorskip("ray", reason="needs Ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            "local",
            num_cpus=2 * (os.cpu_count() or 1),
            object_store_memory=100_000_000,
            include_dashboard=False,
            log_to_driver=False,
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    """A labelled set in which one file is not an image, and two nets."""
    root = tmp_path_factory.mktemp("zoo")
    for i in range(COUNT):
        path = root / "data" / "val" / f"n{i % TINY.classes:08}" / f"{i:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image" if i == BROKEN else jpeg(i))
    for seed in (0, 1):
        random_artifact(seed=seed).save(root / f"net{seed}.safetensors")
    return root


def request(zoo: Path, cache: Path, **given) -> EvaluationRequest:
    nets = (zoo / "net0.safetensors", zoo / "net1.safetensors")
    return EvaluationRequest(
        **{"models": nets, "data": zoo / "data", "device": "cpu", "batch": BATCH, "cache": cache} | given
    )


def arguments(zoo: Path, cache: Path, *more: object) -> list[object]:
    nets = [part for i in (0, 1) for part in ("--model", zoo / f"net{i}.safetensors")]
    return ["eval", "--data", zoo / "data", *nets, "--device", "cpu", "--batch", BATCH, "--cache", cache, *more]


def contents(cache: Path) -> dict[str, bytes]:
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in cache.glob("*/*") if path.name != "lock"}


@pytest.fixture(scope="module")
def single(zoo, tmp_path_factory) -> Path:
    """The predictions of a single machine, in a cache."""
    cache = tmp_path_factory.mktemp("single")
    compute(request(zoo, cache))
    assert len({data for name, data in contents(cache).items() if name.endswith(ROWS)}) == 2
    return cache


@pytest.fixture
def only_ray(monkeypatch) -> None:
    """Fail if this process computes a prediction."""

    def refuse(*args, **kwargs):
        raise AssertionError("computed here")

    monkeypatch.setattr(compute_module, "predict", refuse)


@pytest.mark.usefixtures("cluster", "only_ray")
def test_result_and_predictions_are_those_of_a_single_machine(zoo, single, tmp_path, run: Run):
    there = run(*arguments(zoo, tmp_path, "--on", "ray", "--json"))
    assert contents(tmp_path) == contents(single)
    here = run(*arguments(zoo, single, "--json"))  # everything is in the cache
    assert there == here
    assert here[0] == 1
    assert f"{BROKEN:03}.jpg" in here[2]


@pytest.mark.usefixtures("cluster", "only_ray")
def test_a_stopped_run_continues_for_each_net_where_it_was(zoo, single, tmp_path):
    cache = shutil.copytree(single, tmp_path / "cache")
    for about, done in zip(sorted(cache.glob(f"*/{ABOUT}")), (4, 2 * PART * BATCH + 6), strict=True):
        cut(about.parent, done)
    assert contents(cache) != contents(single)
    counts: list[int] = []
    computed = predict_again(zoo, cache, on_images=counts.append)
    assert contents(cache) == contents(single)
    assert all(part.complete for part in computed)
    assert counts[0] == 4  # already done
    assert sum(counts) == COUNT


@pytest.mark.usefixtures("cluster", "only_ray")
def test_a_shard_of_a_sample_is_that_of_a_single_machine(zoo, tmp_path, monkeypatch):
    of_both = {"limit": 40, "shard": 1, "shards": 2, "models": (zoo / "net0.safetensors",)}
    compute(request(zoo, tmp_path / "there", on="ray", **of_both))
    monkeypatch.undo()
    compute(request(zoo, tmp_path / "here", **of_both))
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    (rows,) = (data for name, data in contents(tmp_path / "here").items() if name.endswith(ROWS))
    assert len(rows) == 20 * 4 * TINY.classes


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
@pytest.mark.usefixtures("cluster")
def test_the_part_of_a_worker_that_dies_is_computed_again(zoo, single, tmp_path, capsys):
    cache = shutil.copytree(single, tmp_path / "cache")
    for about in cache.glob(f"*/{ABOUT}"):
        cut(about.parent, 0)
    killed: list[int] = []

    def kill(count: int) -> None:
        if count and not killed:
            killed.extend(workers_here())
            for process in killed:
                os.kill(process, signal.SIGKILL)

    predict_again(zoo, cache, on_images=kill)
    assert killed
    assert contents(cache) == contents(single)
    assert capsys.readouterr().out == ""  # Ray's messages would corrupt the result's JSON


@pytest.mark.usefixtures("cluster")
def test_the_time_that_workers_spent_is_counted(zoo, single, tmp_path):
    cache, clock = shutil.copytree(single, tmp_path / "cache"), Clock()
    for about in cache.glob(f"*/{ABOUT}"):
        cut(about.parent, COUNT - COUNT % BATCH)
    predict_again(zoo, cache, clock=clock)
    assert all(clock.seconds[stage] > 0 for stage in STAGES)


def gone(data: Path, about: About) -> About:
    shutil.rmtree(data)
    return about


def other_images(data: Path, about: About) -> About:
    (data / "val" / "n00000000" / "more.jpg").write_bytes(jpeg(1))
    return about


def other_runtime(data: Path, about: About) -> About:
    return replace(about, net=replace(about.net, backend="ONNX Runtime 0.1, CPUExecutionProvider"))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (gone, UnreadableInputError, "data"),
        (other_images, UnreadableInputError, "its images differ from those on the machine that started"),
        (other_runtime, BackendError, "but ONNX Runtime 0.1, CPUExecutionProvider on the machine that started"),
    ],
)
@pytest.mark.usefixtures("cluster")
def test_an_error_on_a_worker_is_one_line_that_names_its_node(zoo, single, tmp_path, change, error, message):
    shutil.copytree(zoo / "data", tmp_path / "data")
    data = open_images(tmp_path / "data")
    about = About.load(min(single.glob(f"*/{ABOUT}")).parent)
    predictions = opened(tmp_path / "cache", change(tmp_path / "data", about), data.listed(range(COUNT)))
    with closing(predictions), pytest.raises(AlexNetInferError) as caught:
        predict_on_ray(data, range(COUNT), [(load(zoo / "net0.safetensors", device="cpu"), predictions)])
    assert type(caught.value) is error
    assert message in str(caught.value)
    assert str(caught.value).endswith(f"(on the Ray node {socket.gethostname()})")
    assert str(caught.value).isprintable()
    assert predictions.done == 0


@pytest.mark.parametrize(
    ("differs", "message"),
    [
        ({"version": "0.0"}, f"alexnet-infer {__version__}, but 0.0 on the machine"),
        ({"cores": 999}, ", but 999 on the machine"),
    ],
)
def test_a_node_that_might_round_differently_is_refused(zoo, single, differs, message):
    pytest.importorskip("ray", reason="needs Ray")
    about = About.load(min(single.glob(f"*/{ABOUT}")).parent)
    common = {"root": zoo / "data", "split": "validation", "layout": "folders", "device": "cpu", "threads": 1}
    worker = Worker(Work(**common, abouts=(about,), models=(b"",), **differs))
    (row,) = worker({"begin": 0, "positions": [0], "done": [0]})
    kind, text = json.loads(row["error"])
    assert kind == "BackendError"
    assert message in text


@pytest.mark.usefixtures("cluster")
def test_workers_that_fit_on_no_node_are_refused(zoo, tmp_path, run: Run):
    code, _, err = run(*arguments(zoo, tmp_path, "--on", "ray", "--workers", 999))
    assert code == BackendError.exit_code
    assert err == "error: --on ray: no node has 999 CPUs, which each worker needs; choose fewer with --workers\n"


def test_an_address_without_a_cluster_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = f"127.0.0.1:{server.getsockname()[1]}"
    for address, reason in ((free, "refused"), (f"ray://{free}", "refused"), ("nonsense", "expected host:port")):
        with pytest.raises((OSError, ValueError), match=reason):
            on_ray._knock(address)
    for address in (None, "", "auto", "local"):
        on_ray._knock(address)


def test_an_address_needs_ray(zoo, tmp_path, run: Run):
    code, _, err = run(*arguments(zoo, tmp_path, "--address", "10.0.0.1:6379"))
    assert code == UsageError.exit_code
    assert err == "error: --address '10.0.0.1:6379': needs --on ray\n"


def test_without_ray_the_error_says_how_to_install_it(zoo, tmp_path, run: Run, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = run(*arguments(zoo, tmp_path, "--on", "ray"))
    assert code == BackendError.exit_code
    assert err == 'error: --on ray needs Ray: pip install "alexnet-infer[ray]"\n'


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "expected"),
    [
        ([{"CPU": 8.0}, {"CPU": 6.0}, {"memory": 1.0}], 4, 0, (4, 3)),
        ([{"CPU": 64.0}, {"CPU": 16.0, "GPU": 4.0}, {"CPU": 48.0, "GPU": 8.0}], None, 1, (4, 12)),
        ([{"CPU": 16.0, "GPU": 4.0}], 8, 1, (8, 2)),
    ],
)
def test_workers_fill_the_nodes(nodes, cpus, gpus, expected):
    assert on_ray._room(nodes, cpus, gpus) == expected


def test_a_cluster_without_a_gpu_is_refused_where_this_machine_has_one():
    with pytest.raises(BackendError, match="no node has a GPU"):
        on_ray._room([{"CPU": 64.0}], None, 1)


def cut(folder: Path, images: int) -> None:
    """Keep the predictions of only the first `images` images."""
    lines = (folder / IMAGES).read_bytes().splitlines(keepends=True)
    (folder / IMAGES).write_bytes(b"".join(lines[:images]))
    os.truncate(folder / ROWS, 4 * TINY.classes * images)


def predict_again(zoo: Path, cache: Path, **given) -> list[Predictions]:
    """Complete the predictions in `cache`."""
    net_paths = {sha256(path): path for path in (zoo / "net0.safetensors", zoo / "net1.safetensors")}
    images = open_images(zoo / "data").listed(range(COUNT))
    predictions = [opened(cache, About.load(about.parent), images) for about in sorted(cache.glob(f"*/{ABOUT}"))]
    nets = [(load(net_paths[part.about.net.sha256], device="cpu"), part) for part in predictions]
    try:
        predict_on_ray(open_images(zoo / "data"), range(COUNT), nets, **given)
    finally:
        for part in predictions:
            part.close()
    return predictions


def workers_here() -> list[int]:
    """Return the ids of the processes in which this process's cluster runs workers."""
    processes = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(b"ray::MapWorker") and os.getpid() in ancestors(folder):
                processes.append(int(folder.name))
        except OSError:  # the process has ended
            continue
    return processes


def ancestors(folder: Path) -> Iterator[int]:
    while (parent := int((folder / "stat").read_text().rpartition(")")[2].split()[1])) > 0:
        yield parent
        folder = Path("/proc") / str(parent)
