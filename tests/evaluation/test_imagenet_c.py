"""ImageNet-C's folders in both arrangements, and the baseline's errors against two sources."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.evaluation.imagenet_c import (
    EXTRA,
    GROUPS,
    PUBLISHED,
    STANDARD,
    example_set,
    find_sets,
    mean,
    read_baseline,
)
from tests.datasets.mini import refused
from tests.evaluation import corrupted

ALL = {name for names in GROUPS.values() for name in names}


def made(root: Path, *names: str, severities=range(1, 6)) -> Path:
    """Write sets with one file each. A name may have a folder before it."""
    for name in names:
        for severity in severities:
            folder = root / name / f"{severity}" / "n01440764"
            folder.mkdir(parents=True)
            (folder / "1.JPEG").write_bytes(b"x")
    return root


# The published errors.


def test_there_are_fifteen_corruptions_that_count_and_four_that_do_not():
    assert [*STANDARD] == corrupted.STANDARD
    assert len({*STANDARD, *EXTRA}) == len(ALL) == 19


def test_the_baselines_errors_are_those_of_augmix():
    assert [float(PUBLISHED.errors[name]) for name in corrupted.STANDARD] == corrupted.ALEXNET
    assert len(PUBLISHED.errors) == 15


def test_the_baselines_errors_are_the_means_over_the_severities():
    for name, errors in corrupted.BY_SEVERITY.items():
        assert float(PUBLISHED.errors[name]) == pytest.approx(np.mean(errors), abs=1e-9)
    assert {*corrupted.BY_SEVERITY} == {*PUBLISHED.errors}


def test_the_mean_is_exact():
    assert mean([Fraction(1, 3), Fraction(1, 3), Fraction(1, 6)]) == Fraction(5, 18)


# The folders.


@pytest.mark.parametrize("grouped", [False, True])
def test_sets_are_found_at_the_top_and_one_level_deeper(tmp_path, grouped):
    names = [f"{group}/{name}" if grouped else name for group, names in GROUPS.items() for name in names]
    sets = find_sets(made(tmp_path, *names))
    assert len(sets) == 95
    assert sets.missing == ()
    assert [*sets.folders] == [name for names in GROUPS.values() for name in names]
    for name, severity, folder in sets:
        assert folder.relative_to(tmp_path).parts[-2:] == (name, f"{severity}")


def test_a_mixture_of_both_arrangements_is_found(tmp_path):
    made(tmp_path, "noise/gaussian_noise", "snow", "extra/saturate")
    assert {*find_sets(tmp_path).folders} == {"gaussian_noise", "snow", "saturate"}


def test_a_folder_in_a_folder_stands_for_it(tmp_path):
    made(tmp_path / "download" / "ImageNet-C", "blur/zoom_blur", "noise/shot_noise")
    assert len(find_sets(tmp_path)) == 10


def test_missing_corruptions_and_severities_are_named(tmp_path):
    made(tmp_path, *(name for name in STANDARD if name not in ("frost", "fog")), "extra/spatter")
    made(tmp_path, "fog", severities=(1, 2, 5))
    shutil.rmtree(tmp_path / "snow" / "4" / "n01440764")  # an empty folder is a missing set
    shutil.rmtree(tmp_path / "extra" / "spatter" / "2")
    assert find_sets(tmp_path).missing == ("snow/4", "frost", "fog/3", "fog/4", "spatter/2")


def test_extra_corruptions_may_be_absent(tmp_path):
    assert find_sets(made(tmp_path, *STANDARD)).missing == ()


def test_other_folders_with_severities_are_named_and_other_files_are_passed_over(tmp_path):
    made(tmp_path, "noise/gausian_noise", "noise/shot_noise", "rain")
    (tmp_path / "README.md").write_text("x")
    made(tmp_path / "noise", "shot_noise/6", severities=())
    sets = find_sets(tmp_path)
    assert {*sets.folders} == {"shot_noise"}
    assert {*sets.unknown} == {tmp_path / "noise" / "gausian_noise", tmp_path / "rain"}


def test_a_corruption_in_two_places_is_refused(tmp_path):
    made(tmp_path, "weather/frost", "frost", "snow")
    with pytest.raises(UsageError, match=r"has frost twice \(.*frost and .*frost\)"):
        find_sets(tmp_path)


@pytest.mark.parametrize("name", ["absent", "file.tar", "empty", "one set", "corruption", "plain"])
def test_a_folder_without_sets_is_a_clear_error(tmp_path, name):
    (tmp_path / "file.tar").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    made(tmp_path / "one set", ".", severities=(1,))
    made(tmp_path / "corruption", ".", severities=(1, 2, 3, 4, 5))
    made(tmp_path / "plain", "val/n01440764", "val/n01443537")
    path = tmp_path / name
    with pytest.raises(UnreadableInputError) as error:
        find_sets(path)
    assert str(error.value).startswith(f"{path}: no ")
    assert example_set(path) is None


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000])
def test_a_name_too_long_for_the_system_is_a_clear_error(tmp_path, name):
    with pytest.raises(UnreadableInputError, match="File name too long"):
        find_sets(tmp_path / name)
    assert example_set(tmp_path / name) is None


def test_folders_without_anything_but_a_folder_end(tmp_path, nested):
    nested(tmp_path, 30, "d" * 200)
    with pytest.raises(UnreadableInputError, match=r"File name too long|no sets of ImageNet-C"):
        find_sets(tmp_path)


def test_the_example_is_a_set(tmp_path):
    made(tmp_path, "snow", "digital/contrast")
    assert example_set(tmp_path) == tmp_path / "snow" / "1"


# A result as the baseline.


def result(**changes: object) -> dict:
    return {
        "alexnet_infer": "1",
        "data": {"name": "c", "listing": "ab", "images": 10},
        "protocol": {"views": "ten", "nets": 1, "classes": "all", "outputs": 6, "labels": None, "deviations": []},
        "nets": [{"name": "a net", "sha256": "0"}],
        "corruptions": [
            {
                "name": name,
                "severities": [{"severity": s, "images": 10, "wrong": s + 1, "error": 0.1} for s in range(1, 6)],
                "error": 0.4,
            }
            for name in (*STANDARD, "saturate")
        ],
        **changes,
    }


def saved(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_a_result_is_read_as_the_exact_means_of_its_counts(tmp_path):
    baseline = read_baseline(saved(tmp_path / "base.json", result()))
    assert {*baseline.errors} == {*STANDARD, "saturate"}
    assert {*baseline.errors.values()} == {Fraction(2 + 3 + 4 + 5 + 6, 50)}
    assert (baseline.name, baseline.listing, baseline.views) == ("a net", "ab", "ten")
    assert baseline.scoring == ("all", None, 6)
    several = result(nets=[{"name": "a"}, {"name": "b"}])
    assert read_baseline(saved(tmp_path / "base.json", several)).name == "mean of 2 nets"


def corruption(name: str, /, **changes: object) -> list[dict]:
    """The corruptions of `result`, of which one is changed."""
    return [own | changes if own["name"] == name else own for own in result()["corruptions"]]


def severities(*counts: tuple[int, int, int]) -> list[dict]:
    return [{"severity": severity, "images": images, "wrong": wrong} for severity, images, wrong in counts]


FULL = [(s, 10, 2) for s in range(1, 6)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"corruptions": [c for c in result()["corruptions"] if c["name"] != "fog"]}, "no error for fog"),
        ({"corruptions": corruption("fog", error=None)}, "no error for fog"),
        ({"corruptions": corruption("fog", severities=severities(*FULL[:4]))}, "no error for fog"),
        ({"corruptions": corruption("fog", severities=severities(*FULL[:4], FULL[0]))}, "no error for fog"),
        ({"corruptions": corruption("fog", severities=severities(*FULL[:4], (5, 10, 11)))}, "'fog'/5 has 11 wrong of"),
        ({"corruptions": corruption("fog", severities=severities(*[(s, 9, 0) for s in range(1, 6)]))}, "no errors for"),
        ({"corruptions": corruption("fog", severities=severities(*FULL[:4], (6, 10, 1)))}, "<= 5"),
        ({"corruptions": corruption("fog", severities=severities(*FULL[:4], (5, 0, 0)))}, ">= 1"),
        ({"corruptions": corruption("fog", name="snow")}, "has 'snow' twice"),
        ({"corruptions": 3}, "expected the output of eval --mce --json"),
        ({"nets": []}, "expected the output of eval --mce --json"),
        ({"protocol": {}}, "expected the output of eval --mce --json"),
    ],
)
def test_a_result_that_is_no_baseline_is_refused(tmp_path, changes, words):
    path = saved(tmp_path / "base.json", result(**changes))
    refused(lambda: read_baseline(path), f"--mce-baseline {path}: ", words)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"data": NaN}', b"[" * 99_999, b'"x"', b"{}"])
def test_a_file_that_is_no_result_is_refused(tmp_path, content):
    path = tmp_path / "base.json"
    path.write_bytes(content)
    refused(lambda: read_baseline(path), f"--mce-baseline {path}: ", "expected the output of eval --mce --json")


@pytest.mark.parametrize("name", ["absent.json", "."])
def test_a_file_that_cannot_be_read_is_a_clear_error(tmp_path, name):
    refused(lambda: read_baseline(tmp_path / name), f"--mce-baseline {tmp_path / name}")
