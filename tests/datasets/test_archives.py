"""ILSVRC's archives: read in place and completely, or refused with a one-line message."""

from __future__ import annotations

import io
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_infer.datasets import LabelledImages, open_images
from alexnet_infer.errors import UnreadableInputError
from tests.datasets import mini
from tests.datasets.mini import SYNSETS, TRAINING, VALIDATION, WNIDS, refused

pytest.importorskip("scipy", reason="the devkit needs scipy")

VAL, TRAIN = "ILSVRC2012_img_val.tar", "ILSVRC2012_img_train.tar"


@pytest.fixture
def root(tmp_path) -> Path:
    mini.write_tar(tmp_path)
    return tmp_path


def test_the_archive_itself_can_be_named_with_the_devkit_beside_it(root):
    assert list(open_images(root / VAL)) == list(open_images(root))
    assert list(LabelledImages(root / TRAIN, "train")) == list(LabelledImages(root, "train"))
    (root / VAL).rename(root / "renamed.tar")
    assert [e.name for e in open_images(root / "renamed.tar")] == sorted(VALIDATION)
    assert len(open_images(root / "renamed.tar", layout="tar")) == 18


def test_nothing_is_unpacked(root):
    before = sorted(root.rglob("*"))
    list(open_images(root))
    list(LabelledImages(root, "train"))
    assert sorted(root.rglob("*")) == before


def test_training_images_are_sorted_by_class_and_name_in_any_order_of_the_archive(root):
    images = LabelledImages(root, "train")
    assert [(e.name, e.label) for e in images] == [
        (name, label) for label, wnid in enumerate(WNIDS) for name in sorted(TRAINING) if name.startswith(wnid)
    ]


def test_training_classes_have_ilsvrcs_names_without_a_table_of_names(root):
    (root / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    assert [c.name for c in LabelledImages(root, "train").classes] == [SYNSETS[wnid] for wnid in WNIDS]


@pytest.mark.parametrize("name", ["./{}", "val/{}", "../../etc/{}", "/{}"])
def test_folders_in_the_archive_are_ignored(root, name):
    (root / VAL).write_bytes(mini.tar_of((name.format(image), data) for image, (data, _) in VALIDATION.items()))
    assert [e.name for e in open_images(root)] == sorted(VALIDATION)


def test_other_files_in_the_archive_are_ignored(root):
    other_files = [("README.txt", b"x"), ("._ILSVRC2012_val_00000001.JPEG", b"x")]
    (root / VAL).write_bytes(mini.tar_of([*other_files, *((image, data) for image, (data, _) in VALIDATION.items())]))
    assert len(open_images(root)) == 18


def test_an_unprintable_name_is_escaped(root):
    wnid = WNIDS[0]
    (root / TRAIN).write_bytes(mini.tar_of([(f"{wnid}.tar", mini.tar_of([("a\x1b[2J\n.JPEG", b"image")]))]))
    assert [e.name for e in LabelledImages(root, "train")] == [r"a\x1b[2J\n.JPEG"]


def test_a_class_without_images_keeps_its_position_and_an_archive_without_any_is_refused(root):
    archives = mini.class_archives() | {f"{WNIDS[2]}.tar": mini.tar_of([])}
    (root / TRAIN).write_bytes(mini.tar_of(archives.items()))
    images = LabelledImages(root, "train")
    assert [c.wnid for c in images.classes] == WNIDS
    assert sorted({e.label for e in images}) == [0, 1, 3, 4, 5]
    (root / TRAIN).write_bytes(mini.tar_of([("images.txt", b"x")]))
    refused(lambda: LabelledImages(root, "train"), f"{TRAIN}: no images in it")


# Incomplete.


def test_a_missing_devkit_is_refused(root):
    (root / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    refused(lambda: open_images(root), "no devkit here")


def test_missing_images_are_refused_with_the_first_name_and_the_count(root):
    kept = sorted(VALIDATION)[3:-1]
    (root / VAL).write_bytes(mini.tar_of((name, VALIDATION[name][0]) for name in kept))
    refused(
        lambda: open_images(root),
        "ground_truth.txt: 18 labels for 14 images in ",
        f"{VAL}: 4 have no image; the first is ILSVRC2012_val_00000001.JPEG",
    )


@pytest.mark.parametrize("lines", [16, 20])
def test_a_ground_truth_with_a_different_number_of_lines_than_images_is_refused(root, lines):
    mini.write_devkit(root, truth=(mini.ground_truth() * 2)[: 2 * lines])
    lacking = (
        "label; the first is ILSVRC2012_val_00000017" if lines == 16 else "image; the first is ILSVRC2012_val_00000019"
    )
    refused(lambda: open_images(root), f"{lines} labels for 18 images", f"2 have no {lacking}.JPEG")


def test_an_image_that_occurs_twice_is_refused(root):
    files = [(name, data) for name, (data, _) in VALIDATION.items()]
    (root / VAL).write_bytes(mini.tar_of([*files, (f"again/{files[0][0]}", b"other")]))
    refused(lambda: open_images(root), f"{VAL}: 'again/{files[0][0]}' occurs twice")


def test_a_class_that_occurs_twice_is_refused(root):
    (root / TRAIN).write_bytes(mini.tar_of([*mini.class_archives().items(), (f"{WNIDS[3]}.tar", mini.tar_of([]))]))
    refused(lambda: LabelledImages(root, "train"), f"{TRAIN}: '{WNIDS[3]}.tar' occurs twice")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_link_or_device_with_the_name_of_an_image_is_refused(root, kind):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("ILSVRC2012_val_00000001.JPEG")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    (root / VAL).write_bytes(buffer.getvalue())
    refused(lambda: open_images(root), f"{VAL}: 'ILSVRC2012_val_00000001.JPEG' is a link or special")


# Damaged.


def damaged(name: str, split: str) -> Callable[[Path], str]:
    return lambda root: refused(
        lambda: LabelledImages(root, split), f"{root / name}", "damaged, cut short or not a tar archive ("
    )


@pytest.mark.parametrize(("name", "split"), [(VAL, "validation"), (TRAIN, "train")])
def test_an_archive_cut_anywhere_before_its_end_mark_is_refused_with_its_name(root, name, split):
    content = (root / name).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        end = max(m.offset_data + -(-m.size // 512) * 512 for m in archive)
    assert content[end:] == bytes(len(content) - end)
    cuts = [0, 1, 511, 512, 513, end - 512, end - 1, end, *random.Random(0).sample(range(end), 40)]
    for cut in cuts:
        (root / name).write_bytes(content[:cut])
        damaged(name, split)(root)
    (root / name).write_bytes(content[: end + 512])
    assert len(LabelledImages(root, split)) == len(mini.IMAGES[split])


@pytest.mark.parametrize(("name", "split"), [(VAL, "validation"), (TRAIN, "train")])
def test_a_damaged_header_is_refused_instead_of_ending_the_archive(root, name, split):
    content = (root / name).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        headers = [m.offset for m in archive]
    for at in headers:
        changed = bytearray(content)
        changed[at + 150] ^= 1  # in its checksum
        (root / name).write_bytes(changed)
        damaged(name, split)(root)


def test_a_damaged_inner_archive_is_refused_with_both_names(root):
    archives = mini.class_archives()
    archives[f"{WNIDS[1]}.tar"] = archives[f"{WNIDS[1]}.tar"][:700]
    (root / TRAIN).write_bytes(mini.tar_of(archives.items()))
    assert f"{TRAIN}: {WNIDS[1]}.tar: " in damaged(TRAIN, "train")(root)


@pytest.mark.parametrize("content", [b"x" * 2000, b"\x1f\x8b" + bytes(600)])
def test_a_file_that_is_not_a_tar_is_refused(root, content):
    (root / VAL).write_bytes(content)
    damaged(VAL, "validation")(root)


def test_an_archive_with_negative_sizes_is_refused_without_looping(root):
    member = tarfile.TarInfo("ILSVRC2012_val_00000001.JPEG")
    header = bytearray(member.tobuf())
    header[124:136] = (2**96 - 1024).to_bytes(12, "big")  # -1024 in tar's form for numbers of any size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (root / VAL).write_bytes(bytes(header) * 4 + bytes(1024))
    damaged(VAL, "validation")(root)


def test_an_archive_cut_after_opening_fails_for_each_lost_image(root):
    images = open_images(root)
    content = (root / VAL).read_bytes()
    (root / VAL).write_bytes(content[: len(content) // 2])
    examples = list(images.examples(on_error="yield"))
    assert {e.error for e in examples} == {None, "the archive ends before the image does"}
    assert len(examples) == 18
    assert all(e.data == VALIDATION[e.name][0] for e in examples if not e.error)
    with pytest.raises(UnreadableInputError, match=r"ILSVRC2012_img_val\.tar: ILSVRC2012_val_.*: the archive ends"):
        list(images)
    (root / VAL).unlink()
    assert {e.error for e in images.examples(on_error="yield")} == {"missing, or not a regular file"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / VAL)
    refused(lambda: open_images(tmp_path), "no validation split here")
    refused(lambda: open_images(tmp_path, layout="tar"), "no validation split here")
    os.mkfifo(tmp_path / f"{WNIDS[0]}.tar")
    refused(lambda: LabelledImages(tmp_path, "train"), f"{WNIDS[0]}.tar: missing, or not a regular file")
