"""Which nets a command uses: those named, or the bundled ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import asdict

from alexnet_infer import nets
from alexnet_infer.artifact import embedded_model, load_manifest, sha256
from alexnet_infer.errors import UsageError
from alexnet_infer.manifest import check_same_classes
from alexnet_infer.nets import NotPulledError, UnknownNetError, choose_nets, find_net, nets_at_hand
from alexnet_infer.published import pull as module
from alexnet_infer.published.registry import published
from tests.datasets.mini import refused

NAMED = [Path("c.safetensors"), Path("a.safetensors"), Path("b.safetensors")]


@pytest.fixture
def bundled(tmp_path, monkeypatch) -> list[Path]:
    """Three bundled nets, of which "m" is the default, and a file that is not a net."""
    paths = [tmp_path / f"{name}.safetensors" for name in "mbz"]
    for path in [*paths, tmp_path / "card.md"]:
        path.touch()
    monkeypatch.setattr(nets, "embedded_model", lambda: paths[0])
    return paths


def test_the_default_net_is_first_then_the_others_by_name(bundled):
    assert nets_at_hand() == bundled


def test_the_package_has_at_least_the_default_net():
    assert nets_at_hand()[0] == embedded_model()
    assert choose_nets([], None) == [embedded_model()]


def ten_view_errors(path: Path) -> tuple[int, int]:
    """The images that are wrong in the first guess, and in the first five, of a bundled net's validation split."""
    (error,) = (error for error in load_manifest(path).provenance.errors if error.views == "ten")
    return error.top1, error.top5


def test_the_default_net_has_the_lowest_error_of_the_bundled_nets():
    assert ten_view_errors(embedded_model()) == min(map(ten_view_errors, nets_at_hand()))


@pytest.mark.parametrize("path", nets_at_hand(), ids=lambda path: path.stem)
def test_every_bundled_net_has_its_record(path):
    record = json.loads(path.with_suffix(".json").read_text())
    manifest = load_manifest(path)
    assert (record["model"], record["bytes"], record["sha256"]) == (path.name, path.stat().st_size, sha256(path))
    assert record["parameters"] == manifest.architecture.parameters
    assert record["errors"] == [asdict(error) for error in manifest.provenance.errors]
    assert record["seed"] == manifest.provenance.seed
    assert len(record["top1_error_by_epoch"]) == record["epochs"]
    assert record["training_seconds"] > 0
    assert record["hardware"]
    assert record["software"]


@pytest.mark.parametrize("path", nets_at_hand(), ids=lambda path: path.stem)
def test_the_documents_state_the_errors_of_every_bundled_net(path):
    errors = {error.views: error for error in load_manifest(path).provenance.errors}
    ten, center = (
        [f"{100 * wrong / errors[views].images:.2f}" for wrong in (errors[views].top1, errors[views].top5)]
        for views in ("ten", "center")
    )
    overview = (path.parent / "README.md").read_text(encoding="utf-8")
    (row,) = (line for line in overview.splitlines() if line.startswith(f"| `{path.name}`"))
    assert f"| {ten[0]} / {ten[1]} % |" in row
    card = (path.parent / "alexnet-64.md").read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if line.startswith(f"| `{path.stem}`"))  # of the table of errors
    assert f"| {ten[0]} % ({errors['ten'].top1:,}) | {ten[1]} % ({errors['ten'].top5:,}) |" in row
    assert f"| {center[0]} / {center[1]} % |" in row


def test_without_names_the_default_net_or_the_first_bundled_nets_are_chosen(bundled):
    assert choose_nets([], None) == bundled[:1]
    for count in (1, 2, 3):
        assert choose_nets([], count) == bundled[:count]


def test_all_named_nets_or_the_first_of_them_are_chosen(bundled):
    assert choose_nets(NAMED, None) == NAMED
    for count in (1, 2, 3):
        assert choose_nets(NAMED, count) == NAMED[:count]


def test_too_few_nets_are_refused_with_their_names(bundled):
    refused(
        lambda: choose_nets([], 9),
        "--ensemble 9: expected at most 3, the number of nets available (m.safetensors, b.safetensors, z.safetensors)",
        "name more model files",
        error=UsageError,
    )
    refused(lambda: choose_nets(NAMED[:1], 2), "--ensemble 2", "(c.safetensors)", error=UsageError)


@pytest.mark.parametrize("count", [0, -1])
def test_an_ensemble_without_nets_is_refused(count):
    refused(lambda: choose_nets(NAMED, count), f"--ensemble {count}: expected at least 1", error=UsageError)


def test_a_net_named_twice_is_refused(bundled):
    twice = [NAMED[0], NAMED[1], Path("./c.safetensors")]
    refused(lambda: choose_nets(twice, None), "c.safetensors: named twice", error=UsageError)
    assert choose_nets(twice, 2) == NAMED[:2]  # the third isn't used


def test_nets_with_other_classes_or_another_order_are_refused_by_name():
    check_same_classes([["a", "b"], ["a", "b"]], ["one", "two"])
    for classes, difference in (
        (["a"], "1 and 2"),
        (["b", "a"], "output 0 is 'b' and 'a'"),
        (["a", "c"], "output 1 is 'c' and 'b'"),
    ):
        refused(
            lambda classes=classes: check_same_classes([["a", "b"], classes], ["one", "two"]),
            f"two: has different classes from one ({difference})",
            error=UsageError,
        )


def test_a_net_is_found_by_its_name_or_by_its_file(bundled, tmp_path, monkeypatch):
    assert find_net("b") == bundled[1]
    assert find_net(bundled[2]) == bundled[2]
    monkeypatch.chdir(tmp_path)
    Path("z").touch()
    assert find_net("z") == Path("z")  # a file takes precedence


def test_anything_with_a_suffix_or_a_folder_is_a_path(bundled):
    for name in ("gone.safetensors", "folder/caffenet", "x" * 300 + ".onnx"):
        assert find_net(name) == Path(name)


@pytest.mark.parametrize(
    ("name", "meant"), [("caffe-net", "did you mean caffenet"), ("bb", "did you mean b"), ("x" * 300, "of a net;")]
)
def test_an_unknown_name_is_refused_with_a_similar_one(bundled, name, meant):
    refused(lambda: find_net(name), "neither a file nor the name of a net", meant, error=UnknownNetError)


def test_a_folder_does_not_hide_a_net_of_the_same_name(bundled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("b").mkdir()
    assert find_net("b") == bundled[1]


def test_a_published_net_is_found_once_it_is_pulled(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(NotPulledError, match=r"`alexnet-infer pull caffenet` downloads it \(244 MB\)"):
        find_net("caffenet")
    folder = tmp_path / "alexnet-infer" / "models"
    folder.mkdir(parents=True)
    for name, suffix in (("caffenet", ".safetensors"), ("bvlc-alexnet-int8", ".onnx")):
        monkeypatch.setattr(module, "import_net", lambda request: request.out.touch() or request.out)
        monkeypatch.setattr(module, "verify", lambda wanted, path: None)
        path = module.pull(published(name), "some.file")
        assert (path.parent, path.suffix) == (folder, suffix)
        assert find_net(name) == path
