"""The models around a net for encoded images: which folders are written, kept and refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from alexnet_infer.errors import UsageError
from alexnet_infer.export.triton import decode_model, write_repository
from alexnet_infer.export.triton.repository import versions
from tests.export.triton.models import MANIFEST, NAME, preprocessed, served


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_models_for_encoded_images_are_beside_the_net(onnx, tmp_path):
    models = tmp_path / "models"
    assert write_repository(models, onnx, "jpeg") == models / NAME / "1"
    assert {path.name for path in models.iterdir()} == {NAME, f"{NAME}_decode", f"{NAME}_jpeg"}
    decode, ensemble = contents(models / f"{NAME}_decode"), contents(models / f"{NAME}_jpeg")
    assert decode.keys() == {"config.pbtxt", "1/model.py"}
    assert decode["1/model.py"] == Path(decode_model.__file__).read_bytes()
    assert ensemble.keys() == {*("1/.keep", "config.pbtxt", "labels.txt", "README.md", "model-analyzer.yaml")}
    assert ensemble["labels.txt"] == (models / NAME / "labels.txt").read_bytes()


def test_without_the_option_there_is_only_the_net(onnx, tmp_path):
    write_repository(tmp_path / "models", onnx)
    assert [path.name for path in (tmp_path / "models").iterdir()] == [NAME]


@pytest.mark.parametrize("second", ["squares", "jpeg"])
def test_a_version_of_the_net_leaves_the_models_around_it_as_they_are(onnx, tmp_path, second):
    models = tmp_path / "models"
    write_repository(models, onnx, "jpeg")
    for config in (models / f"{NAME}_decode/config.pbtxt", models / f"{NAME}_jpeg/config.pbtxt"):
        config.write_text(f"{config.read_text()}# mine\n")
    (models / f"{NAME}_decode/1/model.py").write_text("# mine")
    before = contents(models)
    assert write_repository(models, served(tmp_path / "newer.onnx", views="ten"), second) == models / NAME / "2"
    after = contents(models)
    assert after.keys() - before.keys() == {f"{NAME}/2/model.onnx"}
    assert {name for name in before if before[name] != after[name]} == set()


def test_a_net_in_a_repository_gets_the_models_around_it_later(onnx, old, tmp_path):
    assert write_repository(tmp_path / "models", onnx, "jpeg") == old / "2"
    assert versions(tmp_path / "models" / f"{NAME}_decode") == versions(tmp_path / "models" / f"{NAME}_jpeg") == [1]


@pytest.mark.parametrize("second", ["squares", "jpeg"])
def test_a_version_that_needs_other_squares_than_the_decoding_model_makes_is_refused(onnx, old, tmp_path, second):
    """The net's own config doesn't tell: it is older than the parameters."""
    write_repository(tmp_path / "models", onnx, "jpeg")
    before = contents(tmp_path / "models")
    other = served(tmp_path / "other.onnx", views="ten", manifest=preprocessed(resample="bilinear"))
    with pytest.raises(UsageError, match=f"{NAME}_decode: its versions have resample='bicubic', this model has"):
        write_repository(tmp_path / "models", other, second)
    assert contents(tmp_path / "models") == before


@pytest.mark.parametrize("suffix", ["_decode", "_jpeg"])
def test_a_model_of_another_program_with_such_a_name_is_refused_only_if_it_is_in_the_way(onnx, tmp_path, suffix):
    place = tmp_path / "models" / f"{NAME}{suffix}"
    place.mkdir(parents=True)
    (place / "config.pbtxt").write_text(f'name: "{NAME}{suffix}"\n')
    with pytest.raises(UsageError, match=f"{suffix}/config.pbtxt: was not written by alexnet-infer"):
        write_repository(tmp_path / "models", onnx, "jpeg")
    assert not (tmp_path / "models" / NAME).exists()
    assert write_repository(tmp_path / "models", onnx).name == "1"


@pytest.mark.parametrize("suffix", ["_decode", "_jpeg"])
def test_a_net_with_such_a_name_is_in_the_way_of_encoded_images_only(onnx, tmp_path, suffix):
    other = replace(onnx, manifest=structs.replace(MANIFEST, name=f"{NAME}{suffix}"))
    write_repository(tmp_path / "models", other)
    assert write_repository(tmp_path / "models", onnx) == tmp_path / "models" / NAME / "1"
    with pytest.raises(UsageError, match="its versions have backend='onnxruntime'"):
        write_repository(tmp_path / "models", onnx, "jpeg")


def test_a_file_that_takes_patches_cannot_have_encoded_images_as_its_input(tmp_path):
    with pytest.raises(UsageError, match=r"--input jpeg: .* add --views center or --views ten"):
        write_repository(tmp_path / "models", served(tmp_path / "net.onnx"), "jpeg")
    assert not (tmp_path / "models").exists()
