"""The registry of data sets is consistent with outside figures, and an invalid one is refused in one line."""

from __future__ import annotations

import copy
import json

import msgspec
import pytest

from alexnet_infer.artifact import embedded_model, load_manifest
from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.published.data_sets import VARIABLE, data_set, data_sets
from alexnet_infer.published.registry import registry


def test_the_registry_has_the_well_known_free_sets():
    small = {f"{name}{size}" for name in ("imagenette", "imagewoof") for size in ("", "-160", "-320")}
    others = {"tiny-imagenet", "imagenetv2", "imagenet-a", "imagenet-r", "imagenet-sketch", "imagenet-c"}
    assert set(data_sets()) == small | others
    assert not set(data_sets()) & set(registry())


@pytest.mark.parametrize(
    ("name", "validation", "train", "classes", "size"),
    [
        ("tiny-imagenet", 10_000, 100_000, 200, 248_100_043),
        ("imagenette-160", 3925, 9469, 10, 99_003_388),
        ("imagewoof", 3929, 9025, 10, 1_343_715_595),
        ("imagenetv2", 10_000, 0, 1000, 1_264_079_360),
        ("imagenet-a", 7500, 0, 200, 687_552_512),
        ("imagenet-r", 30_000, 0, 200, 2_191_079_936),
        ("imagenet-sketch", 50_889, 0, 1000, 7_593_573_012),
        ("imagenet-c", 19 * 5 * 50_000, 0, 1000, 66_022_818_580),
    ],
)
def test_counts_and_sizes_are_the_publishers(name, validation, train, classes, size):
    data = data_set(name)
    assert (data.validation, data.train, data.classes, data.size) == (validation, train, classes, size)


@pytest.mark.parametrize("name", data_sets())
def test_each_archive_has_a_source_a_digest_and_plausible_images(name):
    data = data_set(name)
    assert sum(archive.files for archive in data.archives) >= data.validation + data.train
    for archive in data.archives:
        assert all(url.startswith(("https://", "http://cs231n.stanford.edu/")) for url in archive.urls)
        assert archive.filename.endswith((".zip", ".tgz", ".tar", ".tar.gz"))
        assert 1000 < archive.size / archive.files < 300_000  # bytes per image
        assert archive.size < archive.room < 2.2 * archive.size
        wanted = data.wanted(archive)
        assert (wanted.size, wanted.digest, wanted.room) == (archive.size, archive.digest, archive.room)


@pytest.mark.parametrize("name", data_sets())
def test_the_suggested_net_knows_as_many_classes(name):
    data = data_set(name)
    if data.model is None:
        assert data.classes == len(load_manifest(embedded_model()).classes)
    else:
        assert data.model in registry()
        assert data.classes <= 1000


def test_only_sets_without_a_better_digest_have_md5():
    kinds = {data.name: {archive.check for archive in data.archives} for data in data_sets().values()}
    weak = {"imagewoof", "imagewoof-160", "imagewoof-320", "imagenet-c"}
    assert {name for name, kind in kinds.items() if kind != {"SHA-256"}} == weak
    assert all(kinds[name] == {"MD5"} for name in weak)


def test_the_parts_of_imagenet_c_have_all_corruptions_of_its_paper():
    data = data_set("imagenet-c")
    folders = {archive.part: archive.folders for archive in data.archives}
    assert set(folders["noise"]) == {"gaussian_noise", "shot_noise", "impulse_noise"}
    assert {*folders["blur"], *folders["weather"], *folders["digital"]} == {
        "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow", "frost", "fog", "brightness", "contrast",
        "elastic_transform", "pixelate", "jpeg_compression",
    }  # fmt: skip
    assert set(folders["extra"]) == {"speckle_noise", "gaussian_blur", "spatter", "saturate"}


def test_parts_are_chosen_by_name():
    data = data_set("imagenet-c")
    assert [a.part for a in data.choose(["noise", "blur"])] == ["blur", "noise"]
    assert data.choose(["all"]) == data.archives
    assert data_set("imagenet-a").choose([]) == data_set("imagenet-a").archives
    with pytest.raises(
        UsageError, match=r"has parts; name at least one with --part: expected blur \(7\.1 GB\), .* or all"
    ):
        data.choose([])
    with pytest.raises(UsageError, match=r"--part 'nose': expected blur"):
        data.choose(["blur", "nose"])
    with pytest.raises(UsageError, match="--part noise: imagenet-a has no parts; leave out --part"):
        data_set("imagenet-a").choose(["noise"])


def test_an_unknown_name_is_refused_with_a_similar_one():
    with pytest.raises(UsageError, match=r"'imagenete' is not a set .*did you mean imagenet"):
        data_set("imagenete")


ENTRIES = json.loads(msgspec.json.encode(data_sets()))


def entry(of: str = "imagenet-a", **fields) -> dict:
    return copy.deepcopy(ENTRIES[of]) | fields


def refused(match: str) -> None:
    with pytest.raises(UnreadableInputError, match=match):
        data_sets()


def test_a_site_can_have_its_own_registry(other):
    ours = entry()
    ours["archives"][0]["urls"] = ["http://mirror.example/a.tar"]
    other({"format": 1, "sets": [ours | {"name": "ours"}]})
    assert list(data_sets()) == ["ours"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": 2, "sets": []}', '{"format": 1}', '{"format": 1, "nets": []}']
)
def test_an_invalid_registry_is_a_one_line_error(other, content):
    other(content)
    refused("not a registry of sets")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "../evil"), ("name", ""), ("summary", " "), ("validation", -1), ("validation", "1"), ("train", None),
        ("classes", 0), ("licence", "a\nb"), ("terms", "ftp://x"), ("terms", 3), ("archives", []), ("archives", None),
        ("archives", [{}]), ("model", "../x"), ("model", 3),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused(other, field, value):
    other({"format": 1, "sets": [entry(**{field: value})]})
    refused("not a registry of sets")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("part", "all"), ("part", "noise"), ("part", 3), ("urls", []), ("urls", ["ftp://x"]), ("size", 0),
        ("size", 2**41), ("digest", "sha1:" + "0" * 40), ("digest", "md5:" + "0" * 31), ("digest", None),
        ("digest_source", ""), ("files", 0), ("folders", ["a"]), ("folders", ["../evil"]),
        ("folders", "a"), ("folders", None),
    ],
)  # fmt: skip
def test_a_wrong_value_of_an_archive_is_refused(other, field, value):
    data = entry()
    data["archives"][0][field] = value
    other({"format": 1, "sets": [data]})
    refused("not a registry of sets")


@pytest.mark.parametrize("folder", ["..", ".", "", "a/b", "/a", ".hidden", 3])
def test_a_folder_of_a_part_must_be_a_plain_name(other, folder):
    data = entry("imagenet-c")
    data["archives"][0]["folders"][0] = folder
    other({"format": 1, "sets": [data]})
    refused(r"not a registry of sets .*folders")


def test_ambiguous_sets_are_refused(other):
    two = entry("imagenet-c")
    two["archives"][1]["part"] = two["archives"][0]["part"]
    folders = entry("imagenet-c")
    folders["archives"][1]["folders"] = folders["archives"][0]["folders"]
    unnamed = entry()
    unnamed["archives"] *= 2
    for data, message in (
        (two, "2 parts are called blur"),
        (folders, "2 folders are called"),
        (unnamed, "2 archives: expected a part for each"),
    ):
        other({"format": 1, "sets": [data]})
        refused(message)
    other({"format": 1, "sets": [entry(), entry()]})
    refused("2 sets are called imagenet-a")


def test_a_missing_registry_is_a_one_line_error(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone.json"))
    refused(r"gone\.json: the registry of sets can't be read")
