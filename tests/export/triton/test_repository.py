"""Model repositories for Triton: versions that are always complete, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from alexnet_infer.errors import UsageError
from alexnet_infer.export.triton import repository, write_repository
from alexnet_infer.export.triton.repository import versions
from alexnet_infer.graph.info import Batch
from alexnet_infer.manifest import ClassName
from tests.export.triton.models import MANIFEST, OLD_CONFIG, SIZE, preprocessed, served


def test_a_repository_has_config_labels_and_the_first_version(onnx, tmp_path):
    version = write_repository(tmp_path / "models", onnx)
    place = tmp_path / "models" / "random-alexnet-64"
    assert version == place / "1"
    assert (version / "model.onnx").read_bytes() == onnx.path.read_bytes()
    assert {path.name for path in place.iterdir()} == {
        *("1", "config.pbtxt", "labels.txt", "README.md", "model-analyzer.yaml")
    }
    assert 'name: "random-alexnet-64"' in (place / "config.pbtxt").read_text()  # Triton requires the folder's name
    assert (place / "labels.txt").read_text().splitlines() == [c.name for c in MANIFEST.classes]


def test_weights_beside_the_file_are_copied_under_their_names(onnx, tmp_path):
    weights = tmp_path / "net-0123456789ab.data"
    weights.write_bytes(b"weights")
    version = write_repository(tmp_path / "models", replace(onnx, weights=(weights,)))
    assert (version / weights.name).read_bytes() == b"weights"


def test_an_engine_gets_the_name_that_triton_expects(tmp_path):
    version = write_repository(tmp_path / "models", served(tmp_path / "net.engine", tensorrt="11.4.0"))
    assert [path.name for path in version.iterdir()] == ["model.plan"]


def test_the_next_export_is_the_next_version_and_changes_nothing_else(onnx, tmp_path):
    first = write_repository(tmp_path / "models", onnx)
    edited = (first.parent / "config.pbtxt").read_text().replace("delay_microseconds: 1000", "delay_microseconds: 7")
    assert "microseconds: 7" in edited
    (first.parent / "config.pbtxt").write_text(edited)
    newer = served(tmp_path / "newer.onnx", views="ten")
    assert write_repository(tmp_path / "models", newer) == first.parent / "2"
    assert (first / "model.onnx").read_bytes() == onnx.path.read_bytes()
    assert (first.parent / "2" / "model.onnx").read_bytes() == newer.path.read_bytes()
    assert (first.parent / "config.pbtxt").read_text() == edited


def test_a_version_after_a_gap_is_the_highest(onnx, tmp_path):
    first = write_repository(tmp_path / "models", onnx)
    first.rename(first.parent / "9")
    (first.parent / "old").mkdir()
    assert write_repository(tmp_path / "models", onnx) == first.parent / "10"
    assert versions(first.parent) == [9, 10]


def test_a_copy_that_fails_leaves_no_version(onnx, tmp_path, monkeypatch):
    first = write_repository(tmp_path / "models", onnx)
    before = sorted(first.parent.iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repository, "copy_atomically", full)
    with pytest.raises(UsageError, match="No space left on device"):
        write_repository(tmp_path / "models", onnx)
    assert sorted(first.parent.iterdir()) == before


def test_what_a_killed_export_left_is_removed_by_the_next_one(onnx, tmp_path):
    place = write_repository(tmp_path / "models", onnx).parent
    left, mine = place / ".version.0123abcd.tmp", place / ".mine.tmp"
    for folder in (left, mine):
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"half")
    (place / ".README.md.0123abcd.tmp").write_bytes(b"half")
    before = {path.name for path in place.iterdir()}
    write_repository(tmp_path / "models", onnx)
    after = {path.name for path in place.iterdir()}
    assert before - after == {left.name, ".README.md.0123abcd.tmp"}
    assert after - before == {"2"}


def test_an_export_killed_before_the_config_was_written_is_repeated(onnx, tmp_path):
    place = write_repository(tmp_path / "models", onnx).parent
    for name in ("config.pbtxt", "README.md"):
        (place / name).unlink()
    (place / "1" / "model.onnx").unlink()
    (place / "1").rmdir()
    assert write_repository(tmp_path / "models", onnx) == place / "1"


@pytest.mark.parametrize("name", ["README.md", "labels.txt"])
def test_a_file_of_another_program_is_kept(onnx, tmp_path, name):
    place = tmp_path / "models" / "random-alexnet-64"
    place.mkdir(parents=True)
    (place / name).write_text("mine")
    with pytest.raises(UsageError, match=f"has {name} but no config.pbtxt"):
        write_repository(tmp_path / "models", onnx)
    assert [path.read_text() for path in place.iterdir()] == ["mine"]


def test_while_a_version_is_written_no_folder_has_a_number_as_its_name(onnx, tmp_path, monkeypatch):
    seen = []
    real = repository.copy_atomically

    def watched(source: Path, target: Path) -> None:
        place = target.parents[1]
        seen.append(
            [path.name for path in place.iterdir() if re.match(r"[\s+-]*\d", path.name)]
        )  # as std::stoll parses
        real(source, target)

    monkeypatch.setattr(repository, "copy_atomically", watched)
    write_repository(tmp_path / "models", onnx)
    assert seen == [[]]


def test_a_version_that_another_process_wrote_meanwhile_is_kept(onnx, tmp_path, monkeypatch):
    first = write_repository(tmp_path / "models", onnx)
    other = first.parent / "2" / "model.onnx"
    real = Path.rename

    def slower(self: Path, target: Path) -> Path:
        if target.name == "2" and not target.exists():
            target.mkdir()
            other.write_bytes(b"other")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", slower)
    assert write_repository(tmp_path / "models", onnx) == first.parent / "3"
    assert other.read_bytes() == b"other"


OTHER_NAMES = structs.replace(
    MANIFEST, classes=(*MANIFEST.classes[:-1], structs.replace(MANIFEST.classes[-1], name="something else"))
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"views": "none"}, "input="),
        ({"batch": Batch(min=1, opt=8, max=32)}, "batch="),
        ({"batch": Batch(min=64, opt=64, max=64)}, "fixed="),
        ({"tensorrt": "11.4.0"}, "backend="),
        ({"manifest": OTHER_NAMES}, "different class names"),
    ],
)
def test_a_model_that_contradicts_the_existing_one_is_refused(onnx, tmp_path, change, words):
    first = write_repository(tmp_path / "models", onnx)
    other = served(tmp_path / "other.onnx", **{"views": "ten", **change})
    with pytest.raises(UsageError, match=words) as refused:
        write_repository(tmp_path / "models", other)
    assert "\n" not in str(refused.value)
    assert versions(first.parent) == [1]


def test_an_existing_model_of_another_program_is_refused(onnx, tmp_path):
    place = tmp_path / "models" / "random-alexnet-64"
    (place / "1").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"has versions but no config\.pbtxt"):
        write_repository(tmp_path / "models", onnx)
    for text in ('name: "net"\n', "# alexnet-infer: {", "# alexnet-infer: " + "[" * 100_000, "\xff"):
        (place / "config.pbtxt").write_text(text, encoding="latin-1")
        with pytest.raises(UsageError, match="was not written by alexnet-infer"):
            write_repository(tmp_path / "models", onnx)
    assert sorted(path.name for path in place.iterdir()) == ["1", "config.pbtxt"]


@pytest.mark.parametrize(
    ("net", "name"),
    [
        ("../../etc", "etc"),
        ('my "best" net', "my-best-net"),
        ("日本", "alexnet"),
        ("a.b_c-1", "a.b_c-1"),
        ("..", "alexnet"),
        ("x" * 101, "x" * 100),
    ],
)
def test_a_nets_name_becomes_a_safe_folder_name(onnx, tmp_path, net, name):
    model = replace(onnx, manifest=structs.replace(MANIFEST, name=net))
    assert write_repository(tmp_path / "models", model) == tmp_path / "models" / name / "1"


def test_an_engine_that_does_not_accept_a_single_image_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"--batch 2,8,64: .* expected 1,8,64"):
        served(tmp_path / "net.engine", tensorrt="11.4.0", batch=Batch(min=2, opt=8, max=64))


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(onnx, tmp_path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(UsageError, match=r"can't be written \(") as refused:
        write_repository(tmp_path / "models", onnx)
    assert "\n" not in str(refused.value)


def test_class_names_in_any_script_are_one_per_line(tmp_path):
    classes = tuple(ClassName(wnid=c.wnid, name=f'"{i}" \\ 猫, it\'s') for i, c in enumerate(MANIFEST.classes))
    model = served(tmp_path / "net.onnx", manifest=structs.replace(MANIFEST, classes=classes))
    version = write_repository(tmp_path / "models", model)
    lines = (version.parent / "labels.txt").read_bytes().decode("utf-8").split("\n")
    assert lines == [*(c.name for c in classes), ""]


# The preprocessing, which clients read in the config


@pytest.mark.parametrize(
    ("views", "change", "words"),
    [
        ("ten", {"views": "center"}, "views='ten', this model has 'center'"),
        ("ten", {"manifest": preprocessed(resample="bilinear")}, "resample='bicubic', this model has 'bilinear'"),
        ("ten", {"manifest": preprocessed(fit="stretch")}, "fit="),
        ("ten", {"manifest": preprocessed(size=SIZE + 1)}, "input="),
        ("none", {"manifest": preprocessed(resample="bilinear")}, "resample="),
        ("none", {"manifest": preprocessed(size=SIZE + 1)}, "size="),
        ("none", {"manifest": preprocessed(mean=np.array([1, 2, 3]))}, "mean="),
        ("none", {"manifest": preprocessed(mean=np.ones((SIZE, SIZE, 3)))}, "mean="),
        ("none", {"manifest": preprocessed(channel_order="BGR")}, "channel_order="),
        ("none", {"manifest": preprocessed(mean=np.zeros(3), value_range="0-1")}, "mean="),
    ],
)
def test_a_version_that_needs_another_preparation_than_the_config_says_is_refused(tmp_path, views, change, words):
    first = write_repository(tmp_path / "models", served(tmp_path / "net.onnx", views=views))
    with pytest.raises(UsageError, match=words) as refused:
        write_repository(tmp_path / "models", served(tmp_path / "other.onnx", **{"views": views, **change}))
    assert "\n" not in str(refused.value)
    assert versions(first.parent) == [1]


def test_two_means_per_pixel_are_told_apart(tmp_path):
    means = [np.full((SIZE, SIZE, 3), value) for value in (1, 2)]
    models = [served(tmp_path / "net.onnx", manifest=preprocessed(mean=mean)) for mean in means]
    first = write_repository(tmp_path / "models", models[0])
    assert write_repository(tmp_path / "models", models[0]) == first.parent / "2"
    with pytest.raises(UsageError, match="mean='sha256:"):
        write_repository(tmp_path / "models", models[1])


def test_versions_that_take_squares_may_subtract_different_means(onnx, tmp_path):
    write_repository(tmp_path / "models", onnx)
    other = served(tmp_path / "other.onnx", views="ten", manifest=preprocessed(mean=np.array([1, 2, 3])))
    assert write_repository(tmp_path / "models", other).name == "2"


@pytest.mark.parametrize("change", [{}, {"views": "center"}, {"manifest": preprocessed(resample="bilinear")}])
def test_a_repository_without_parameters_takes_versions_as_before(old, tmp_path, change):
    newer = served(tmp_path / "newer.onnx", **{"views": "ten", **change})
    assert write_repository(tmp_path / "models", newer) == old / "2"
    assert (old / "config.pbtxt").read_text() == OLD_CONFIG


def test_a_repository_without_parameters_still_refuses_another_interface(old, tmp_path):
    for change, words in (({"views": "none"}, "input="), ({"batch": Batch(min=1, opt=8, max=32)}, "batch=64")):
        with pytest.raises(UsageError, match=words):
            write_repository(tmp_path / "models", served(tmp_path / "other.onnx", **{"views": "ten", **change}))
    assert versions(old) == [1]


def test_a_changed_analyzer_configuration_is_kept(onnx, tmp_path):
    place = write_repository(tmp_path / "models", onnx).parent
    (place / "model-analyzer.yaml").write_text("# mine")
    write_repository(tmp_path / "models", onnx)
    assert (place / "model-analyzer.yaml").read_text() == "# mine"
