"""A miniature ILSVRC in every layout: the same images, names and labels, packed as the real ones are."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.datasets import Example, open_images
from alexnet_infer.errors import AlexNetInferError, UnreadableInputError
from alexnet_infer.manifest import ClassName

SYNSETS = {
    "n02119789": "kit fox, Vulpes macrotis",
    "n04522168": "vase",
    "n01440764": "tench, Tinca tinca",
    "n03126707": "crane",
    "n02012849": "crane",
    "n01443537": "goldfish, Carassius auratus",
}
"""WordNet id -> name, in the devkit's order: ILSVRC2012_ID 1 to 6. Two have the same name, as in ILSVRC."""

WNIDS = ["n01440764", "n01443537", "n02012849", "n02119789", "n03126707", "n04522168"]
"""The WordNet ids in label order."""

ANCESTORS = {"n00001740": "entity", "n02083346": "canine, canid"}
"""Synsets in the devkit that are not classes."""


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (9 + seed % 5, 12, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def _validation() -> dict[str, tuple[bytes, str]]:
    wnids = [wnid for wnid in SYNSETS for _ in range(3)]
    random.Random(0).shuffle(wnids)
    return {f"ILSVRC2012_val_{i:08}.JPEG": (jpeg(i), wnid) for i, wnid in enumerate(wnids, start=1)}


VALIDATION = _validation()
"""Name -> (bytes, WordNet id), three images of each class."""

TRAINING = {f"{wnid}_{100 * k}.JPEG": (jpeg(50 + 7 * k + i), wnid) for i, wnid in enumerate(WNIDS) for k in (1, 2)}
"""Name -> (bytes, WordNet id), two images of each class."""

IMAGES = {"validation": VALIDATION, "train": TRAINING}


def expected(split: str) -> list[tuple[str, int, str]]:
    """(name, label, SHA-256 of the image) sorted by name."""
    images = sorted(IMAGES[split].items())
    return [(name, WNIDS.index(wnid), hashlib.sha256(data).hexdigest()) for name, (data, wnid) in images]


# The devkit.


def meta_mat(synsets: Sequence[tuple[int, str, str, int]], fields: Sequence[str] = (), compress: bool = True) -> bytes:
    """`meta.mat` with rows (ILSVRC2012_ID, WNID, words, num_children), with a struct array like the published one's."""
    io_ = pytest.importorskip("scipy.io", reason="the devkit needs scipy")
    names = fields or (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    table = np.zeros((len(synsets), 1), dtype=[(name, object) for name in names])
    for row, (number, wnid, words, children) in zip(table, synsets, strict=True):
        values = {
            "ILSVRC2012_ID": float(number),
            "WNID": wnid,
            "words": words,
            "gloss": f"what is called {words}",
            "num_children": float(children),
            "children": np.arange(1.0, children + 1),
            "wordnet_height": float(children > 0),
            "num_train_images": 1300.0 * (not children),
        }
        for name in names:
            row[0][name] = values[name]
    buffer = io.BytesIO()
    io_.savemat(buffer, {"synsets": table}, do_compression=compress)
    return buffer.getvalue()


def mini_synsets() -> list[tuple[int, str, str, int]]:
    rows = [(i, wnid, words, 0) for i, (wnid, words) in enumerate(SYNSETS.items(), start=1)]
    return rows + [(len(rows) + i, wnid, words, 2) for i, (wnid, words) in enumerate(ANCESTORS.items(), start=1)]


def ground_truth() -> str:
    order = list(SYNSETS)
    return "".join(f"{order.index(wnid) + 1}\n" for _, (_, wnid) in sorted(VALIDATION.items()))


@functools.cache
def mini_meta() -> bytes:
    """The miniature's `meta.mat`. It is cached, since such a file contains the time when it was written."""
    return meta_mat(mini_synsets())


def devkit_files(meta: bytes | None = None, truth: str | None = None) -> dict[str, bytes]:
    return {
        "data/meta.mat": mini_meta() if meta is None else meta,
        "data/ILSVRC2012_validation_ground_truth.txt": (ground_truth() if truth is None else truth).encode(),
        "readme.txt": b"Introduction",
    }


def tar_of(files: Iterable[tuple[str, bytes]], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def write_devkit(folder: Path, meta: bytes | None = None, truth: str | None = None) -> Path:
    """Write the devkit as an archive, as it is published."""
    path = folder / "ILSVRC2012_devkit_t12.tar.gz"
    files = devkit_files(meta, truth)
    path.write_bytes(tar_of(((f"ILSVRC2012_devkit_t12/{name}", data) for name, data in files.items()), "w:gz"))
    return path


def write_devkit_folder(folder: Path, name: str = "ILSVRC2012_devkit_t12") -> Path:
    for inner, data in devkit_files().items():
        write(folder / name / inner, data)
    return folder / name


# The layouts. Each writer writes all splits that the layout has.


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def class_archives() -> dict[str, bytes]:
    """Name -> tar of the class's training images."""
    files_of = {wnid: [(name, data) for name, (data, own) in TRAINING.items() if own == wnid] for wnid in WNIDS}
    return {f"{wnid}.tar": tar_of(files) for wnid, files in files_of.items()}


def write_tar(root: Path) -> None:
    shuffled = random.Random(1).sample(sorted(VALIDATION), len(VALIDATION))
    (root / "ILSVRC2012_img_val.tar").write_bytes(tar_of((name, VALIDATION[name][0]) for name in shuffled))
    (root / "ILSVRC2012_img_train.tar").write_bytes(tar_of(reversed(class_archives().items())))
    write_devkit(root)


def write_class_archives(root: Path) -> None:
    for name, data in class_archives().items():
        write(root / "train" / name, data)
    write_devkit(root)


def write_flat(root: Path) -> None:
    for name, (data, _) in VALIDATION.items():
        write(root / "val" / name, data)
    write_devkit(root)


def write_flat_in_root(root: Path) -> None:
    for name, (data, _) in VALIDATION.items():
        write(root / name, data)
    write_devkit_folder(root, "devkit")


def write_folders(root: Path) -> None:
    for folder, split in (("val", "validation"), ("train", "train")):
        for name, (data, wnid) in IMAGES[split].items():
            write(root / folder / wnid / name, data)
    write_names(root / "classes.tsv", "\t")


def write_folders_in_root(root: Path) -> None:
    for name, (data, wnid) in VALIDATION.items():
        write(root / wnid / name, data)
    write_names(root / "classes.tsv", "\t")


def write_kaggle(root: Path) -> None:
    folder = root / "ILSVRC" / "Data" / "CLS-LOC"
    for name, (data, _) in VALIDATION.items():
        write(folder / "val" / name, data)
    for name, (data, wnid) in TRAINING.items():
        write(folder / "train" / wnid / name, data)
    boxes = {name: f"{wnid} 85 1 499 272 " * (1 + i % 2) for i, (name, (_, wnid)) in enumerate(VALIDATION.items())}
    rows = [f"{Path(name).stem},{boxes[name]}\n" for name in random.Random(2).sample(sorted(boxes), len(boxes))]
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(rows))
    write_names(root / "LOC_synset_mapping.txt", " ")


def write_parquet(root: Path) -> None:
    rng = random.Random(3)
    for split, images in IMAGES.items():
        names = rng.sample(sorted(images), len(images))
        for shard in range(2):
            rows = [(images[name][0], name, WNIDS.index(images[name][1])) for name in names[shard::2]]
            write_shard(root / "data" / f"{split}-{shard:05}-of-00002.parquet", rows)
    write_names(root / "classes.tsv", "\t")


def write_shard(
    path: Path, rows: Sequence[tuple[bytes | None, str, int | str]], names: object = None, group: int = 4
) -> None:
    """Write rows (image, path, label) as Hugging Face's library does, with the class `names` in the metadata."""
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet sets need pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet sets need pyarrow")
    images = [{"bytes": data, "path": name} for data, name, _ in rows]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    labels = pyarrow.array([label for *_, label in rows])
    table = pyarrow.table({"image": pyarrow.array(images, kind), "label": labels})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=group)


def write_caffe(root: Path) -> None:
    for name, (data, _) in VALIDATION.items():
        write(root / "val" / name, data)
    lines = [f"{name} {WNIDS.index(wnid)}\n" for name, (_, wnid) in VALIDATION.items()]
    (root / "val.txt").write_text("".join(random.Random(4).sample(lines, len(lines))))
    write_names(root / "synset_words.txt", " ")


def write_tiny_imagenet(root: Path) -> None:
    """Tiny ImageNet's own archive: its classes in another order, and names of more than its classes."""
    lines = []
    for name, (data, wnid) in VALIDATION.items():
        write(root / "val" / "images" / name, data)
        lines.append(f"{name}\t{wnid}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(random.Random(5).sample(lines, len(lines))))
    for name, (data, wnid) in TRAINING.items():
        write(root / "train" / wnid / "images" / name, data)
        write(root / "train" / wnid / f"{wnid}_boxes.txt", b"a.JPEG\t0\t10\t63\t58\n")
    write(root / "test" / "images" / "test_0.JPEG", jpeg(99))
    (root / "wnids.txt").write_text("\n".join(SYNSETS))
    (root / "words.txt").write_text("".join(f"{wnid}\t{words}\n" for wnid, words in {**ANCESTORS, **SYNSETS}.items()))


def write_names(path: Path, separator: str) -> None:
    path.write_text("".join(f"{wnid}{separator}{SYNSETS[wnid]}\n" for wnid in WNIDS))


WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "tar": ("tar", write_tar),
    "flat": ("flat", write_flat),
    "flat in root": ("flat", write_flat_in_root),
    "folders": ("folders", write_folders),
    "folders in root": ("folders", write_folders_in_root),
    "kaggle": ("kaggle", write_kaggle),
    "parquet": ("parquet", write_parquet),
    "caffe": ("caffe", write_caffe),
    "tiny-imagenet": ("tiny-imagenet", write_tiny_imagenet),
}
"""Form -> (layout, function that writes it), for validation."""

TRAINING_WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "tar": ("tar", write_tar),
    "class archives": ("tar", write_class_archives),
    "folders": ("folders", write_folders),
    "kaggle": ("kaggle", write_kaggle),
    "parquet": ("parquet", write_parquet),
    "tiny-imagenet": ("folders", write_tiny_imagenet),
}


# More forms of the same layouts, for validation.


def write_numbered(root: Path) -> None:
    """ImageNetV2's form. With six classes, the numbers need a table."""
    for name, (data, wnid) in VALIDATION.items():
        write(root / str(WNIDS.index(wnid)) / name, data)
    write_names(root / "classes.tsv", "\t")


def write_numbered_in_val(root: Path) -> None:
    for name, (data, wnid) in VALIDATION.items():
        write(root / "val" / f"{WNIDS.index(wnid):05}" / name, data)
    write_names(root / "synset_words.txt", " ")


def write_imagenet_r(root: Path) -> None:
    """ImageNet-A's, -R's and -Sketch's form."""
    for name, (data, wnid) in VALIDATION.items():
        write(root / wnid / name, data)
    write(root / "README.txt", b"Names\n")


def write_imagenette(root: Path) -> None:
    for folder, split in (("val", "validation"), ("train", "train")):
        for name, (data, wnid) in IMAGES[split].items():
            write(root / folder / wnid / name, data)
    write(root / "noisy_imagenette.csv", b"path,noisy_labels_0\n")


def write_torchvision(root: Path) -> None:
    """torchvision's `ImageNet`, which keeps the archives that it unpacks."""
    write_imagenette(root)
    write(root / "meta.bin", b"PK")
    write(root / "ILSVRC2012_img_val.tar", b"not needed any more")
    write(root / "ILSVRC2012_devkit_t12.tar.gz", b"not needed any more")


def write_linked(root: Path) -> None:
    """Class folders of links: to folders, to files, and one that is a link itself. All lead out of the set."""
    store = root.with_name(f"{root.name}-store")
    for i, (name, (data, wnid)) in enumerate(VALIDATION.items()):
        write(store / wnid / name, data)
        folder = root / "val" / wnid
        folder.parent.mkdir(parents=True, exist_ok=True)
        if wnid == WNIDS[0]:
            if not folder.exists():
                folder.symlink_to(store / wnid)
            continue
        folder.mkdir(exist_ok=True)
        if wnid == WNIDS[1]:
            if not (folder / "part").exists():
                (folder / "part").symlink_to(store / wnid)
        else:
            (folder / name).symlink_to(os.path.relpath(store / wnid / name, folder) if i % 2 else store / wnid / name)
    (root / "val" / WNIDS[2] / "loop").symlink_to("..")
    (root / "val" / WNIDS[3] / "self").symlink_to(".")


LITTER_FOLDERS = (
    *(".ipynb_checkpoints", "@eaDir", "__MACOSX", "lost+found", ".thumbnails", ".Trash-1000", "#recycle"),
    *("$RECYCLE.BIN", "System Volume Information", ".git", "@Recycle", "Network Trash Folder", "~snapshot"),
)
LITTER_FILES = (
    *(".DS_Store", "Thumbs.db", "desktop.ini", "._x.JPEG", ".hidden.jpg", "x.JPEG~", "boxes.txt", "labels.csv"),
    *("README", "LICENSE", "a.xml", "b.json", "x.JPEG:Zone.Identifier", "x.jpg.bak", "Icon\r", "x.JPEG.xmp", "md5sums"),
)


def write_littered(root: Path) -> None:
    """Folders with what programs leave, beside the classes and inside them: copies of images, and other files."""
    write_imagenette(root)
    for place in (root, root / "val", root / "val" / WNIDS[2], root / "val" / WNIDS[4]):
        for folder in LITTER_FOLDERS:
            write(place / folder / "copy.JPEG", jpeg(3))
            write(place / folder / WNIDS[0] / "copy.JPEG", jpeg(3))
        for file in LITTER_FILES:
            write(place / file, b"x")
    (root / "validation").mkdir()  # an empty one is not the split


def write_nested(root: Path) -> None:
    write_imagenette(root / "ilsvrc-mini")


def write_caffe_with_folders(root: Path) -> None:
    """A list of names with folders, relative to the folder of the images, and absolute."""
    lines = []
    for i, (name, (data, wnid)) in enumerate(VALIDATION.items()):
        path = root / "ILSVRC2012_img_val" / wnid / name
        write(path, data)
        lines.append(
            f"{path if i % 3 == 1 else f'{wnid}/{name}' if i % 3 else f'./{wnid}//{name}'} {WNIDS.index(wnid)}\n"
        )
    (root / "val.txt").write_text("".join(lines))
    write_names(root / "synset_words.txt", " ")


def write_caffe_below_root(root: Path) -> None:
    lines = []
    for name, (data, wnid) in VALIDATION.items():
        write(root / "images" / wnid / name, data)
        lines.append(f"images/{wnid}/{name} {WNIDS.index(wnid)}\n")
    (root / "val.txt").write_text("".join(lines))
    write_names(root / "synset_words.txt", " ")


def _write_parquet(root: Path, pattern: str, labels: Sequence[str], names: object, shards: int = 2) -> None:
    """Shards whose labels are positions in `labels`, or WordNet ids if it is empty."""
    rows = [(data, name, labels.index(wnid) if labels else wnid) for name, (data, wnid) in sorted(VALIDATION.items())]
    for i in range(shards):
        write_shard(root / pattern.format(i, shards, f"{i + 10:016x}"), rows[i::shards], names)


def write_parquet_wnids(root: Path) -> None:
    """Labels in the devkit's order, named in the shards; each shard has its own hash."""
    _write_parquet(root, "data/valid-{:05}-of-{:05}-{}.parquet", list(SYNSETS), list(SYNSETS))


def write_parquet_contradicted(root: Path) -> None:
    """Labels that are named in the shards, beside a table in another order and of another length."""
    write_parquet_wnids(root)
    write_names(root / "classes.tsv", "\t")
    with (root / "classes.tsv").open("a") as file:
        file.write("n15075141\ttoilet tissue\n")


def write_parquet_english(root: Path) -> None:
    """English names, the second of two equal ones spelled in another way, as in Hugging Face's ILSVRC. The table has
    more classes in its order, so that nearly all names are known."""
    from alexnet_infer.datasets.ilsvrc import ilsvrc_names

    wnids = sorted(ilsvrc_names())
    names = [ilsvrc_names()[wnid] for wnid in wnids]
    names[wnids.index("n03126707")] = "crane2"
    _write_parquet(root, "validation-{:05}-of-{:05}.parquet", wnids, names)


def write_parquet_texts(root: Path) -> None:
    _write_parquet(root, "validation-{0}.parquet", [], None)
    write_names(root / "classes.tsv", "\t")


def pack(
    folder: Path, archive: Path, top: str = "", *, litter: bool = False, method: int = zipfile.ZIP_DEFLATED
) -> Path:
    """Pack the files in `folder` as `archive`, a .zip or a .tar, below a folder `top`."""
    files = {
        "/".join(filter(None, (top, path.relative_to(folder).as_posix()))): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    if litter:
        files |= {f"__MACOSX/{'/'.join((*n.split('/')[:-1], '._' + n.split('/')[-1]))}": b"resource" for n in files}
    if archive.suffix == ".tar":
        archive.write_bytes(tar_of(files.items()))
        return archive
    with zipfile.ZipFile(archive, "w", method) as file:
        for name in sorted({f"{n.rpartition('/')[0]}/" for n in files if "/" in n}):
            file.writestr(name, b"")
        for name, data in files.items():
            file.writestr(name, data)
    return archive


def _packed(writer: Callable[[Path], None], suffix: str, top: str = "", **options: object) -> Callable[[Path], Path]:
    def write_packed(root: Path) -> Path:
        unpacked = root.with_name(f"{root.name}-unpacked")
        unpacked.mkdir()
        writer(unpacked)
        shutil.rmtree(root)
        return pack(unpacked, root.with_name(f"{root.name}{suffix}"), top, **options)

    return write_packed


MORE_WRITERS: dict[str, tuple[str, Callable[[Path], Path | None]]] = {
    "numbered": ("folders", write_numbered),
    "numbered in val": ("folders", write_numbered_in_val),
    "ImageNet-R": ("folders", write_imagenet_r),
    "Imagenette": ("folders", write_imagenette),
    "torchvision": ("folders", write_torchvision),
    "links": ("folders", write_linked),
    "litter": ("folders", write_littered),
    "a folder in the folder": ("folders", write_nested),
    "caffe with folders": ("caffe", write_caffe_with_folders),
    "caffe below root": ("caffe", write_caffe_below_root),
    "parquet with WordNet ids": ("parquet", write_parquet_wnids),
    "parquet and another table": ("parquet", write_parquet_contradicted),
    "parquet with texts": ("parquet", write_parquet_texts),
    "zip": ("folders", _packed(write_folders, ".zip")),
    "zip with a folder": ("folders", _packed(write_imagenette, ".zip", "ilsvrc", litter=True)),
    "zip of stored files": ("folders", _packed(write_imagenet_r, ".zip", "a/b", method=zipfile.ZIP_STORED)),
    "zip of numbered folders": ("folders", _packed(write_numbered, ".zip", "v2")),
    "zip of Tiny ImageNet": ("tiny-imagenet", _packed(write_tiny_imagenet, ".zip", "tiny-imagenet-200")),
    "zip of caffe": ("caffe", _packed(write_caffe_below_root, ".zip")),
    "zip of flat": ("flat", _packed(write_flat, ".zip", "val-and-kit")),
    "zip of kaggle": ("kaggle", _packed(write_kaggle, ".zip")),
    "tar of folders": ("folders", _packed(write_folders, ".tar")),
    "tar with a folder": ("folders", _packed(write_littered, ".tar", "./ilsvrc", litter=True)),
    "tar of Tiny ImageNet": ("tiny-imagenet", _packed(write_tiny_imagenet, ".tar", "tiny-imagenet-200")),
}
"""Form -> (layout, function that writes it, and returns the path of the set if it isn't the folder)."""


def write_form(form: str, root: Path) -> Path:
    """Write the validation split in a form of WRITERS or MORE_WRITERS to the folder `root`. Returns the set's path.

    The archives have the folder's name.
    """
    root.mkdir()
    return {**WRITERS, **MORE_WRITERS}[form][1](root) or root


def make(root: Path, *paths: str) -> Path:
    """Write files that contain their own paths. Returns `root`."""
    for path in paths:
        write(root / path, path.encode())
    return root


def contents(images: Iterable[Example], classes: Sequence[ClassName]) -> list[tuple[str, str]]:
    """(WordNet id, content) of each image that `make` wrote."""
    return [(classes[e.label].wnid, e.data.decode()) for e in images]


A, B, C = WNIDS[:3]
"""The classes of the fixture `folders`."""


def content(root: Path) -> list[tuple[str, str]]:
    """(WordNet id, content) of each image of the set in `root` that `make` wrote."""
    images = open_images(root)
    return contents(images, images.classes)


def refused(build: Callable[[], object], *parts: str, error: type[AlexNetInferError] = UnreadableInputError) -> str:
    """Return the message of the error that `build` raises.

    The error must be of exactly the class `error`. Its message must be printable and contain all `parts`.
    """
    with pytest.raises(error) as caught:
        build()
    message = str(caught.value)
    assert type(caught.value) is error
    assert message.isprintable(), message
    assert len(message) < 600, message
    for part in parts:
        assert part in message, (part, message)
    return message


FORMS = [("validation", form) for form in WRITERS] + [("train", form) for form in TRAINING_WRITERS]
"""(Split, form) of every way in which the set can be written."""
