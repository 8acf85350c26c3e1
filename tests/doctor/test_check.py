"""The check of labelled sets: it reports every planted defect, and no defect in a sound set."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.datasets.ilsvrc import ARCHIVES, DEVKIT, ILSVRC, ilsvrc_classes
from alexnet_infer.doctor import check as doctor
from alexnet_infer.doctor import order
from alexnet_infer.doctor.check import check
from alexnet_infer.doctor.finding import Finding, Report
from alexnet_infer.doctor.images import Seen, unreadable_images
from alexnet_infer.doctor.order import IDS, LABELS
from alexnet_infer.errors import UnreadableInputError, UsageError
from tests.datasets import mini
from tests.datasets.mini import SYNSETS, TRAINING_WRITERS, VALIDATION, WNIDS, WRITERS, refused

pytest.importorskip("scipy", reason="the devkit needs scipy")

FIRST = "ILSVRC2012_val_00000001.JPEG"
FORMS = [("validation", form) for form in WRITERS] + [("train", form) for form in TRAINING_WRITERS]


def find(report: Report, words: str) -> Finding:
    """The only finding whose title contains `words`."""
    (finding,) = [finding for finding in report.findings if words in finding.title]
    return finding


def problems(report: Report) -> list[tuple[str, str]]:
    return [(finding.level, finding.title) for finding in report.findings if finding.level in ("warning", "error")]


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


# A sound set.


@pytest.mark.parametrize(("split", "form"), FORMS)
def test_a_sound_set_has_nothing_worse_than_notes(tmp_path, split, form):
    layout, write = (WRITERS if split == "validation" else TRAINING_WRITERS)[form]
    write(tmp_path)
    report = check(tmp_path, split)
    assert (problems(report), report.exit_code) == ([], 0)
    assert report.images == report.readable == len(mini.IMAGES[split])
    assert find(report, f"layout {layout}").detail == f"{report.images} images in 6 classes"
    assert find(report, f"a set other than {ILSVRC}").level == "note"
    a_class = report.images // 6
    assert find(report, "images per class").detail == f"{a_class} to {a_class}"
    assert find(report, "every image decodes").level == find(report, "no duplicate images").level == "ok"


def test_the_archive_itself_can_be_named(tmp_path):
    mini.write_tar(tmp_path)
    assert check(tmp_path / "ILSVRC2012_img_val.tar").findings == check(tmp_path).findings


def test_the_report_is_json(tmp_path):
    mini.write_caffe(tmp_path)
    data = json.loads(json.dumps(check(tmp_path).to_json()))
    assert (data["layout"], data["images"], data["readable"], data["classes"], data["exit_code"]) == (
        "caffe",
        18,
        18,
        6,
        0,
    )
    assert {"level", "title", "detail", "advice", "count", "examples"} == data["findings"][0].keys()


def test_a_missing_set_is_refused(tmp_path):
    refused(lambda: check(tmp_path), "no validation split here")
    refused(lambda: check(tmp_path, layout="flat"), "no validation split here in layout flat")
    refused(lambda: check(tmp_path / ("x" * 300)), "File name too long")
    refused(lambda: check(tmp_path, layout="zip"), "--format 'zip'", error=UsageError)


# Labels that can't be read.


@pytest.mark.parametrize(
    ("truth", "words"),
    [
        (mini.ground_truth()[:-2], "17 labels for 18 images"),
        (mini.ground_truth() + "1\n", "19 labels for 18 images"),
        ("7" + mini.ground_truth()[1:], "line 1: '7': expected an ILSVRC2012_ID from 1 to 6"),
        ("0" + mini.ground_truth()[1:], "line 1: '0': expected an ILSVRC2012_ID from 1 to 6"),
    ],
    ids=["short", "long", "above", "zero"],
)
@pytest.mark.parametrize("write", [mini.write_tar, mini.write_flat], ids=["tar", "flat"])
def test_a_wrong_ground_truth_is_a_finding_and_the_images_are_still_checked(tmp_path, write, truth, words):
    write(tmp_path)
    mini.write_devkit(tmp_path, truth=truth)
    report = check(tmp_path)
    finding = find(report, "incomplete or inconsistent")
    assert finding.level == "error"
    assert words in finding.detail
    assert "begins with 490, 361, 171, 822, 297" in finding.advice
    assert (report.images, report.readable, report.exit_code, report.data) == (18, 18, 1, None)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_the_images_of_a_set_without_known_labels_are_checked_in_archives_too(tmp_path, kind):
    for name, (data, wnid) in mini.VALIDATION.items():
        mini.write(tmp_path / "set" / "val" / wnid / name, data)
    for name in ("bad.JPEG", "notes.txt", ".hidden.jpg", "old.tar"):
        mini.write(tmp_path / "set" / "val" / "thumbs" / name, b"no image")
    mini.write(tmp_path / "set" / "test" / "other.JPEG", b"another split")
    root = tmp_path / "set"
    report = check(root if kind == "folder" else mini.pack(root, tmp_path / f"set.{kind}"))
    assert "others with images (thumbs)" in find(report, "incomplete or inconsistent").detail
    assert (report.images, report.readable, report.exit_code, report.data) == (19, 18, 1, None)
    (example,) = find(report, "unreadable images").examples
    assert "bad.JPEG" in example


def test_numbered_folders_are_a_warning_that_says_how_they_are_taken(tmp_path):
    mini.write_numbered_in_val(tmp_path)
    assert not [f for f in check(tmp_path).findings if "numbered" in f.title]
    (tmp_path / "synset_words.txt").unlink()
    for numbered, title in (((), "class folders are numbered"), (ilsvrc_classes(), "before you trust a figure")):
        report = check(tmp_path, numbered=numbered)
        finding = find(report, title)
        assert (finding.level, report.exit_code, report.images) == ("warning", 0, 18)
        assert "classes.tsv" in finding.detail + finding.advice


def test_without_a_readable_image_the_report_says_that_none_was_checked(tmp_path):
    mini.write_shard(tmp_path / "validation-00000-of-00002.parquet", [(mini.jpeg(1), "x", 0)], WNIDS)
    report = check(tmp_path)
    assert "shard 1 of 2 is missing" in find(report, "incomplete or inconsistent").detail
    assert find(report, "no image was checked").level == "note"
    assert report.exit_code == 3


def test_images_missing_from_the_archive_are_a_finding(tmp_path):
    mini.write_tar(tmp_path)
    kept = sorted(VALIDATION)[2:]
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(mini.tar_of((name, VALIDATION[name][0]) for name in kept))
    report = check(tmp_path)
    assert f"2 have no image; the first is {FIRST}" in find(report, "incomplete or inconsistent").detail
    assert (report.readable, report.exit_code) == (16, 1)
    assert find(report, "img_val.tar is not the official archive").level == "error"


def test_an_archive_that_was_cut_is_read_up_to_the_cut(tmp_path):
    mini.write_tar(tmp_path)
    path = tmp_path / "ILSVRC2012_img_val.tar"
    with tarfile.open(path) as archive:
        fifth = archive.getmembers()[4]
    path.write_bytes(path.read_bytes()[: fifth.offset_data + fifth.size // 2])
    report = check(tmp_path)
    assert "damaged, cut short" in find(report, "incomplete or inconsistent").detail
    assert (report.images, report.readable, report.exit_code) == (5, 4, 1)
    assert "the archive ends before the image does" in find(report, "unreadable").examples[0]
    path.write_bytes(b"no archive" * 100)
    assert check(tmp_path).exit_code == UnreadableInputError.exit_code


def test_a_label_out_of_range_in_a_shard_is_a_finding_and_the_images_before_it_are_checked(tmp_path):
    rows = [(data, name, i % 6) for i, (name, (data, _)) in enumerate(VALIDATION.items())]
    mini.write_names(tmp_path / "classes.tsv", "\t")
    mini.write_shard(tmp_path / "validation-00000-of-00001.parquet", [*rows[:10], (rows[10][0], "x.JPEG", 6)])
    report = check(tmp_path)
    assert "row 10: label 6: expected 0 to 5" in find(report, "incomplete or inconsistent").detail
    assert (report.readable, report.exit_code, report.data) == (10, 1, None)


# Images.


def test_unreadable_images_are_all_listed(tmp_path):
    mini.write_flat(tmp_path)
    names = sorted(VALIDATION)[3:6]
    for name, data in zip(names, (b"", b"not an image", VALIDATION[names[2]][0][:-200]), strict=True):
        (tmp_path / "val" / name).write_bytes(data)
    report = check(tmp_path)
    finding = find(report, "unreadable images")
    assert (finding.level, finding.count) == ("error", 3)
    assert [line.split(":")[0] for line in finding.examples] == names
    assert "empty (0 bytes)" in finding.examples[0]
    assert (report.images, report.readable, report.exit_code) == (18, 15, 1)


def test_a_set_without_readable_images_has_exit_code_3(tmp_path):
    mini.write_flat(tmp_path)
    for name in VALIDATION:
        (tmp_path / "val" / name).write_bytes(b"not an image")
    assert check(tmp_path).exit_code == 3


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


EXIF = Image.Exif()
EXIF[0x0112] = 6

LARGE = Image.fromarray(pixels(70, 80, 3))
ODD: dict[str, tuple[Callable[[], bytes], str]] = {
    "in a different format than their names say": (lambda: encoded(LARGE, "PNG"), " is PNG"),
    "in CMYK": (lambda: encoded(LARGE.convert("CMYK"), "JPEG"), ""),
    "in greyscale": (lambda: encoded(LARGE.convert("L"), "JPEG"), ""),
    "with a side below 64 pixels": (lambda: encoded(LARGE.crop((0, 0, 80, 63)), "JPEG"), ": 80 x 63"),
    "with an EXIF orientation": (lambda: encoded(LARGE, "JPEG", exif=EXIF), ": 6"),
    "of more than 33,000,000 pixels": (lambda: encoded(Image.new("RGB", (6000, 5501)), "JPEG"), ": 6000 x 5501"),
}


def odd(report: Report) -> list[Finding]:
    """The findings about odd images."""
    return [finding for finding in report.findings if finding.title.startswith("images ") and finding.examples]


@pytest.mark.parametrize("words", ODD)
def test_only_the_odd_image_is_noted(tmp_path, words):
    for i, wnid in enumerate(WNIDS):
        mini.write(tmp_path / "val" / wnid / f"{i}.JPEG", encoded(Image.fromarray(pixels(64, 65 + i, 3)), "JPEG"))
    assert odd(check(tmp_path)) == []
    make, detail = ODD[words]
    path = tmp_path / "val" / WNIDS[2] / "odd.JPEG"
    path.write_bytes(make())
    report = check(tmp_path)
    (finding,) = odd(report)
    assert (finding.level, finding.title, finding.count) == ("note", f"images {words}", 1)
    assert finding.examples == (f"{path}{detail}",)
    assert report.exit_code == 0


def test_names_from_files_are_escaped(tmp_path):
    mini.write_folders(tmp_path)
    (tmp_path / "val" / WNIDS[0] / "a\x1b[2J\n.JPEG").write_bytes(b"not an image")
    (line,) = find(check(tmp_path), "unreadable").examples
    assert line.isprintable()
    assert r"a\x1b[2J\n.JPEG" in line


def test_a_duplicate_in_one_class_is_a_warning_and_in_two_classes_an_error(tmp_path):
    mini.write_folders(tmp_path)
    (first,) = sorted((tmp_path / "val" / WNIDS[0]).iterdir())[:1]
    again = first.with_name("again.JPEG")
    again.write_bytes(first.read_bytes())
    report = check(tmp_path)
    finding = find(report, "duplicate images in one class")
    assert (finding.level, finding.count, report.exit_code) == ("warning", 1, 0)
    assert all(str(path) in finding.examples[0] for path in (first, again))
    again.rename(tmp_path / "val" / WNIDS[3] / "again.JPEG")
    report = check(tmp_path)
    finding = find(report, "duplicate images in different classes")
    assert (finding.level, finding.count, report.exit_code) == ("error", 1, 1)
    assert f"({WNIDS[0]})" in finding.examples[0]
    assert f"({WNIDS[3]})" in finding.examples[0]


def test_gaps_in_the_numbers_are_reported_as_missing_images(tmp_path):
    mini.write_folders(tmp_path)
    for i in (1, 7):
        (path,) = (tmp_path / "val").rglob(f"ILSVRC2012_val_{i:08}.JPEG")
        path.unlink()
    finding = find(check(tmp_path), "missing images")
    assert (finding.level, finding.count) == ("warning", 2)
    assert finding.examples == (FIRST, "ILSVRC2012_val_00000007.JPEG")


def test_a_class_without_images_is_a_warning(tmp_path):
    mini.write_folders(tmp_path)
    for path in (tmp_path / "val" / WNIDS[4]).iterdir():
        path.rename(tmp_path / "val" / WNIDS[0] / path.name)
    report = check(tmp_path)
    assert find(report, "images per class").detail == "0 to 6"
    assert find(report, "classes without images").examples == (f"{WNIDS[4]} crane: 0 images",)
    assert report.exit_code == 0


def test_nothing_is_ok_that_was_not_checked(tmp_path):
    """One readable image has nothing to be compared with; an unreadable one is compared with none."""
    mini.write_folders(tmp_path)
    paths = sorted((tmp_path / "val").rglob("*.JPEG"))
    for path in paths[1:]:
        path.write_bytes(b"?")
    report = check(tmp_path)
    finding = find(report, "not all images were compared with each other")
    assert (finding.level, finding.detail) == ("note", "1 of 18 images can be read; at least 2 are needed")
    paths[1].write_bytes(mini.jpeg(77))
    finding = find(check(tmp_path), "not all images were compared with each other")
    assert finding.detail == "2 of 18 images can be read, and have no duplicates; the others were not compared"
    paths[1].write_bytes(paths[0].read_bytes())
    assert find(check(tmp_path), "duplicate images").level in ("warning", "error")
    assert find(report, "images per class").level == "note"  # no figure to compare with


def test_images_that_were_not_reached_are_not_said_to_decode():
    seen = Seen()
    finding = unreadable_images(seen, 0)
    assert (finding.level, finding.detail) == ("note", "there is no image")
    seen.names, seen.labels = ["a", "b"], [0, 0]
    finding = unreadable_images(seen, 5)
    assert (finding.level, finding.title) == ("note", "not every image was read")
    assert finding.detail == "2 of 5 images were reached"
    assert unreadable_images(seen, 2).level == "ok"


# Archives.


@pytest.fixture
def official(tmp_path, monkeypatch) -> Path:
    """The miniature's archive and devkit, registered as the published ones."""
    mini.write_tar(tmp_path)
    archive, kit = (tmp_path / name for name in ("ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"))
    digests = [hashlib.md5(path.read_bytes()).hexdigest() for path in (archive, kit)]
    monkeypatch.setitem(ARCHIVES, "validation", {archive.name: (archive.stat().st_size, digests[0])})
    monkeypatch.setattr(doctor, "DEVKIT", (None, digests[1]))
    return archive


def test_sizes_and_md5_sums_are_the_published_ones():
    assert ARCHIVES["validation"]["ILSVRC2012_img_val.tar"] == (6744924160, "29b22e2961454d5413ddabcf34fc5622")
    assert ARCHIVES["train"]["ILSVRC2012_img_train.tar"] == (147897477120, "1d675b47d978889d74fa0da5fadfb00e")
    assert DEVKIT[1] == "fa75699e90414af021442c21a62c3abf"


def test_an_official_archive_is_recognised_by_size_and_md5(official):
    report = check(official.parent)
    for name in ("ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"):
        assert find(report, name).level == "ok"
        assert "MD5 as published" in find(report, name).detail


def test_a_changed_byte_changes_the_md5_and_is_an_error_in_ilsvrc(official, monkeypatch):
    data = official.read_bytes()
    at = data.index(b"\xff\xd9", 600) - 1  # the last byte of an image, which changes a few pixels
    official.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    finding = find(check(official.parent), "img_val.tar is not the official archive")
    assert (finding.level, finding.advice) == ("note", "")
    assert hashlib.md5(official.read_bytes()).hexdigest() in finding.detail
    monkeypatch.setattr(doctor, "identify", lambda wnids: ILSVRC)
    assert find(check(official.parent), "img_val.tar is not the official archive").level == "error"


def test_an_archive_of_another_size_is_not_hashed(official, monkeypatch):
    official.write_bytes(official.read_bytes() + bytes(10240))
    monkeypatch.setattr(doctor, "_md5", lambda path: path == official and pytest.fail("hashed"))
    monkeypatch.setattr(doctor, "identify", lambda wnids: ILSVRC)
    finding = find(check(official.parent), "img_val.tar is not the official archive")
    assert finding.level == "warning"  # not an error: it is readable, so it is complete, but it was repacked
    assert f"{official.stat().st_size:,} bytes" in finding.detail


def test_without_hashing_only_sizes_are_compared(official, monkeypatch):
    monkeypatch.setattr(doctor, "_md5", lambda path: pytest.fail(f"{path} was hashed"))
    report = check(official.parent, hashing=False)
    finding = find(report, "ILSVRC2012_img_val.tar")
    assert (finding.level, report.exit_code) == ("note", 0)
    assert "--no-hash" in finding.detail


# The order of the labels.


def relabel(root: Path, label: Callable[[str], int]) -> None:
    (root / "val.txt").write_text("".join(f"{name} {label(name)}\n" for name in VALIDATION))


def true(name: str) -> int:
    return WNIDS.index(VALIDATION[name][1])


@pytest.fixture(params=["archive", "folder"])
def listed(request, tmp_path) -> Path:
    """Caffe's list, with the devkit beside it."""
    mini.write_caffe(tmp_path)
    (mini.write_devkit if request.param == "archive" else mini.write_devkit_folder)(tmp_path)
    return tmp_path


def test_labels_are_compared_with_the_devkit(listed):
    assert find(check(listed, layout="caffe"), "labels match the devkit").count == 18


def test_images_without_a_name_of_the_devkits_are_not_said_to_match(listed):
    names = sorted(VALIDATION)
    for count, title in ((15, "not all labels were compared with the devkit"), (3, "labels were not compared")):
        for name in names[:3] if count == 15 else names[3:]:
            (path,) = listed.rglob(name)
            path.rename(path.with_name(f"my {name}"))
        renamed = names[:3] if count == 15 else names
        lines = (f"{f'my {name}' if name in renamed else name} {true(name)}\n" for name in names)
        (listed / "val.txt").write_text("".join(lines))
        finding = find(check(listed, layout="caffe"), title)
        assert finding.level == "note"
    assert "none of the 18 images has a name of the devkit's" in finding.detail


def test_one_image_per_class_cannot_show_a_renumbering(listed):
    labels = {name: true(name) for name in VALIDATION}
    firsts = {label: name for name, label in sorted(labels.items(), reverse=True)}
    for name in {*VALIDATION} - {*firsts.values()}:
        (path,) = listed.rglob(name)
        path.unlink()
    (listed / "val.txt").write_text("".join(f"{name} {(label + 1) % 6}\n" for label, name in firsts.items()))
    finding = find(check(listed, layout="caffe"), "labels differ from the devkit's")
    assert (finding.level, finding.count) == ("error", 6)


def test_labels_in_the_devkits_order_are_recognised(listed):
    relabel(listed, lambda name: list(SYNSETS).index(VALIDATION[name][1]))
    report = check(listed, layout="caffe")
    finding = find(report, "labels are in the devkit's order")
    assert (finding.level, report.exit_code) == ("error", 1)
    assert "0.1 % accuracy" in finding.advice


def test_any_other_permutation_and_a_single_wrong_label_are_recognised(listed):
    relabel(listed, lambda name: (true(name) + 1) % 6)
    finding = find(check(listed, layout="caffe"), "labels are permuted")
    assert (finding.level, finding.count) == ("error", 18)
    relabel(listed, lambda name: (true(name) + (name == FIRST)) % 6)
    finding = find(check(listed, layout="caffe"), "labels differ from the devkit's")
    assert (finding.level, finding.count) == ("error", 1)
    assert finding.examples[0].startswith(FIRST)


def test_a_devkit_in_order_of_wordnet_ids_is_noted(tmp_path):
    mini.write_flat(tmp_path)
    rows = [(i, wnid, SYNSETS[wnid], 0) for i, wnid in enumerate(WNIDS, start=1)]
    truth = "".join(f"{true(name) + 1}\n" for name in sorted(VALIDATION))
    mini.write_devkit(tmp_path, mini.meta_mat(rows), truth)
    assert find(check(tmp_path), "the devkit is in order of WordNet ids").level == "note"


def test_a_damaged_devkit_that_the_set_does_not_need_is_noted(tmp_path):
    mini.write_kaggle(tmp_path)
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"?")
    assert find(check(tmp_path), "not compared with the devkit").level == "note"


# A thousand classes, and the first five images, as ILSVRC has them.

THOUSAND = [f"n{10_000_000 + i}" for i in range(1000)]


@pytest.fixture
def thousand(tmp_path, monkeypatch) -> Path:
    """Images without labels. THOUSAND is identified as ILSVRC's classes."""
    for module in (doctor, order):
        monkeypatch.setattr(module, "identify", lambda wnids: ILSVRC if list(wnids) == THOUSAND else None)
    for i in range(1, 6):
        mini.write(tmp_path / "val" / f"ILSVRC2012_val_{i:08}.JPEG", mini.jpeg(i))
    return tmp_path


def devkits_order() -> list[str]:
    """A thousand classes in an order that gives the first images both their true IDs and their true labels."""
    fixed = dict(zip(IDS, LABELS, strict=True))
    other_indices = iter(sorted({*range(1000)} - {*LABELS}))
    return [THOUSAND[fixed[i] if i in fixed else next(other_indices)] for i in range(1, 1001)]


def write_thousand_devkit(root: Path, order: list[str], truth: tuple[int, ...]) -> None:
    rows = [(i, wnid, f"class {wnid}", 0) for i, wnid in enumerate(order, start=1)]
    mini.write_devkit(root, mini.meta_mat(rows), "".join(f"{i}\n" for i in truth))


@pytest.mark.parametrize(
    ("labels", "title", "level"),
    [
        (LABELS, "labels are in order of WordNet ids", "ok"),
        (tuple(i - 1 for i in IDS), "labels are in the devkit's order", "error"),
        ((1, 2, 3, 4, 5), "not the official labels", "error"),
    ],
)
def test_ilsvrcs_first_labels_are_checked_without_the_devkit(thousand, labels, title, level):
    lines = (f"ILSVRC2012_val_{i:08}.JPEG {label}\n" for i, label in enumerate(labels, start=1))
    (thousand / "val.txt").write_text("".join(lines))
    (thousand / "synsets.txt").write_text("".join(f"{wnid}\n" for wnid in THOUSAND))
    finding = find(check(thousand), title)
    assert finding.level == level
    assert level == "ok" or "0.1 % accuracy" in finding.advice


@pytest.mark.parametrize(
    ("labels", "kept", "title", "level"),
    [
        (LABELS, (1, 3, 5), "labels are in order of WordNet ids", "ok"),
        (LABELS, (2, 5), "the order of the labels was not checked", "note"),
        (tuple(i - 1 for i in IDS), (4,), "labels are in the devkit's order", "error"),
        ((65, 970, 230, 809, 5), (1, 5), "not the official labels", "error"),
    ],
)
def test_some_of_ilsvrcs_first_labels_are_checked_too(thousand, labels, kept, title, level):
    for i in {1, 2, 3, 4, 5} - {*kept}:
        (thousand / "val" / f"ILSVRC2012_val_{i:08}.JPEG").unlink()
    lines = (f"ILSVRC2012_val_{i:08}.JPEG {labels[i - 1]}\n" for i in kept)
    (thousand / "val.txt").write_text("".join(lines))
    (thousand / "synsets.txt").write_text("".join(f"{wnid}\n" for wnid in THOUSAND))
    finding = find(check(thousand), title)
    assert finding.level == level
    assert f"(images {', '.join(map(str, kept))})" in finding.detail


def test_a_part_of_ilsvrc_is_reported_with_the_missing_images(thousand):
    write_thousand_devkit(thousand, devkits_order(), IDS)
    report = check(thousand)
    assert find(report, "images are missing").level == "warning"
    assert (
        "5 images in 1,000 classes; ILSVRC-2012 has 50,000 images in 1,000 classes"
        in find(report, "images are missing").detail
    )
    assert find(report, "missing images").count == 49_995
    assert find(report, "missing images").examples[0] == "ILSVRC2012_val_00000006.JPEG"
    assert find(report, "without exactly 50").level == "warning"
    assert find(report, "labels match the devkit").level == "ok"
    assert find(report, "labels are in order of WordNet ids").detail == "the first are 65, 970, 230, 809, 516"


def test_a_ground_truth_that_is_already_mapped_is_recognised(thousand):
    write_thousand_devkit(thousand, devkits_order(), tuple(label + 1 for label in LABELS))
    report = check(thousand)
    assert find(report, "already mapped").level == "error"
    assert find(report, "not the official labels").level == "error"


def test_ilsvrcs_devkit_in_order_of_wordnet_ids_is_an_error(thousand):
    write_thousand_devkit(thousand, THOUSAND, IDS)
    finding = find(check(thousand), "the devkit is in order of WordNet ids")
    assert finding.level == "error"
    assert finding.advice.startswith("The official one is in another order. Use the devkit as published.")
    assert find(check(thousand), "labels are in the devkit's order").level == "error"


def test_class_sizes_other_than_fifty_are_an_error_in_a_complete_set(tmp_path, monkeypatch):
    mini.write_folders(tmp_path)
    monkeypatch.setattr(doctor, "identify", lambda wnids: ILSVRC)
    monkeypatch.setitem(doctor.IMAGES, "validation", 18)
    finding = find(check(tmp_path), "without exactly 50")
    assert (finding.level, finding.count) == ("error", 6)
    assert finding.examples[0] == f"{WNIDS[0]} tench: 3 images"
