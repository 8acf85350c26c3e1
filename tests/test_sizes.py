"""Files of terabytes and pipes in every place where a file is read: refused, in a process with little memory.

A sparse file has a size and takes no room. One child process, whose memory is limited, reads all of them.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_infer.engines.files import save_engine
from alexnet_infer.packages import installed
from tests.engines.made import engine_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on memory, sparse files and pipes")

HUGE = 10 * 2**40
"""10 TB: no memory holds it, and reading it would take hours."""
MEMORY = 2**30
"""Bytes that the child may take on top of what its imports take."""
HUGE_FILES, PIPES = 0, 1
SECONDS = 30
"""The most that a kind of file may take."""
MEMBER = 10 * 2**30
"""The size of a member of a tar archive. Its header has room for up to 8 GB, or any size in tar's binary form."""


def sparse(path: Path, start: bytes = b"", size: int = HUGE) -> None:
    """Write a file of `size` bytes that begins with `start` and has zeros up to the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


WNIDS = ("n01440764", "n01443537")


def caffe(folder: Path) -> None:
    text(folder / "val.txt", "a.jpg 0\nb.jpg 1\n")
    text(folder / "synset_words.txt", "".join(f"{wnid} x\n" for wnid in WNIDS))
    for name in "ab":
        text(folder / f"{name}.jpg", "not an image")


def classes(folder: Path) -> None:
    for wnid in WNIDS:
        text(folder / "val" / wnid / "a.jpg", "not an image")


def kaggle(folder: Path) -> None:
    text(folder / "ILSVRC/Data/CLS-LOC/val/a.JPEG", "not an image")
    text(folder / "LOC_synset_mapping.txt", f"{WNIDS[0]} x\n")
    text(folder / "LOC_val_solution.csv", f"ImageId,PredictionString\na,{WNIDS[0]} 1 2 3 4\n")


def tiny(folder: Path) -> None:
    text(folder / "val/images/a.JPEG", "not an image")
    text(folder / "val/val_annotations.txt", f"a.JPEG\t{WNIDS[0]}\t0\t0\t1\t1\n")
    text(folder / "wnids.txt", WNIDS[0])


def flat(folder: Path) -> None:
    text(folder / "ILSVRC2012_val_00000001.JPEG", "not an image")
    text(folder / "devkit/data/meta.mat", "not a table")
    text(folder / "devkit/data/ILSVRC2012_validation_ground_truth.txt", "1\n")


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def zip_list(size: int) -> bytes:
    """The end of a zip archive whose list of members has `size` bytes, with its 64-bit form."""
    end64 = b"PK\6\6" + (44).to_bytes(8, "little") + bytes(12) + b"".join(
        number.to_bytes(8, "little") for number in (2, 2, size, 0)
    )  # fmt: skip
    locator = b"PK\6\7" + bytes(4) + size.to_bytes(8, "little") + (1).to_bytes(4, "little")
    return end64 + locator + b"PK\5\6" + bytes(4) + b"\xff\xff" * 2 + b"\xff" * 8 + bytes(2)


def with_end(path: Path, start: bytes, end: bytes, size: int = HUGE) -> None:
    sparse(path, start, size)
    with path.open("ab") as file:
        file.write(end)


def zip_bomb(path: Path, name: str, size: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w", force_zip64=True) as file:
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))


def add_images(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        for wnid in WNIDS:
            archive.writestr(f"val/{wnid}/a.jpg", "not an image")


def devkit_bomb(path: Path) -> None:
    with gzip.open(path, "wb", 1) as file:
        for _ in range(100):
            file.write(bytes(1 << 20))


def images(root: Path) -> str:
    """Read a set as `eval` does: an image that can't be read has a reason."""
    from alexnet_infer.datasets import open_images

    return "; ".join(f"{example.label}: {example.error}" for example in open_images(root).examples(on_error="yield"))


def training(root: Path) -> str:
    from alexnet_infer.datasets import open_images

    return str(len(open_images(root, "train")))


def checked(root: Path) -> str:
    from alexnet_infer.doctor.check import check

    return "; ".join(finding.title for finding in check(root).findings)


def photo(path: Path) -> str:
    import numpy as np

    from alexnet_infer.photos import expand
    from alexnet_infer.preprocess import Rescaling

    return "".join(str(np.shape(photo.square(Rescaling(size=8)))) for photo in expand([str(path)]))


def baseline(path: Path) -> object:
    from alexnet_infer.evaluation.imagenet_c import read_baseline

    return read_baseline(path)


def scoring(classes: str = "all", labels: Path | None = None) -> object:
    from alexnet_infer.evaluation.scoring import parse_scoring

    return parse_scoring(classes, labels)


def model(path: Path) -> object:
    from alexnet_infer.artifact import load_artifact

    return load_artifact(path)


def described(path: Path) -> object:
    from alexnet_infer.backends.opening import describe

    return describe(path)


def engine(path: Path) -> object:
    from alexnet_infer.engines.files import read_engine

    return read_engine(path)


def timings(folder: Path) -> object:
    from alexnet_infer.engines import cache

    cache.folder = lambda: folder
    return cache.read_timings("x") + cache.read_kernels("x")


def choice(path: Path) -> object:
    from alexnet_infer.backends.choice import _remembered

    return _remembered(path, {})


def imported(path: Path, **fields: object) -> object:
    from alexnet_infer.importing.convert import ImportRequest, import_net

    out = path.with_name("out.safetensors")
    return import_net(ImportRequest(source=path, out=out, name="x", **({"preset": "owt"} | fields)))


def convention(path: Path) -> object:
    from alexnet_infer.importing.conventions import convention

    return convention(str(path))


def nets(path: Path) -> object:
    from alexnet_infer.errors import ModelFileError
    from alexnet_infer.published.registry import Published, read_registry

    return read_registry(path, "nets", Published, ModelFileError)


def copy(path: Path) -> object:
    from alexnet_infer.published.download import Wanted, verify

    wanted = Wanted(name="x", size=9, digest=f"sha256:{'0' * 64}", command="", room=9, elsewhere="")
    return verify(wanted, path)


def readme(path: Path) -> object:
    from alexnet_infer.export.job import _check_readme

    return _check_readme(path)


def repository(folder: Path) -> object:
    from alexnet_infer.export.triton.entries import Entry
    from alexnet_infer.export.triton.repository import _check_same

    return _check_same(folder, Entry(name="net", interface={}, config="", version={}, labels="label\n"))


def features(path: Path) -> object:
    from alexnet_infer.features import open_features

    return open_features(path)


def npy(shape: str, kind: str = "<f4") -> bytes:
    """The begin of an array in NumPy's format."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def np_array(path: Path) -> None:
    path.write_bytes(npy("4, 2") + bytes(32))


def npz(path: Path, name: str, start: bytes, size: int) -> None:
    """Write an archive with one array of `size` bytes, of which all but the start are zeros."""
    member = zipfile.ZipInfo(f"{name}.npy")
    member.file_size, member.compress_size, member.CRC = size, size, 0
    head = member.FileHeader(zip64=True)
    sparse(path, head + start, len(head) + size)
    extra = b"\1\0\x10\0" + size.to_bytes(8, "little") * 2
    central = b"PK\1\2" + bytes([45, 3, 45, 0]) + bytes(4) + head[10:18] + b"\xff" * 8
    central += len(member.filename).to_bytes(2, "little") + len(extra).to_bytes(2, "little") + bytes(14)
    central += member.filename.encode() + extra
    with path.open("ab") as file:
        begin = file.tell()
        end64 = b"PK\6\6" + (44).to_bytes(8, "little") + bytes(12)
        end64 += b"".join(number.to_bytes(8, "little") for number in (1, 1, len(central), begin))
        locator = b"PK\6\7" + bytes(4) + (begin + len(central)).to_bytes(8, "little") + (1).to_bytes(4, "little")
        file.write(central + end64 + locator + b"PK\5\6" + bytes(4) + b"\xff\xff" * 2 + b"\xff" * 8 + bytes(2))


def tensors(length: int) -> bytes:
    return length.to_bytes(8, "little") + b'{"__metadata__":{"a":"'


IMAGE = "has 10,995,116,277,760 bytes: expected at most 264,000,000"
KINDS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object], str]] = {
    # what is huge: (make the files, read them, the class of the error or what is returned)
    "image in a folder": (lambda d: (classes(d), sparse(d / f"val/{WNIDS[1]}/a.jpg")), images, f"1: {IMAGE}"),
    "image of a list": (lambda d: (caffe(d), sparse(d / "b.jpg")), images, f"1: {IMAGE}"),
    "image that is checked": (lambda d: (caffe(d), sparse(d / "b.jpg")), checked, "unreadable images"),
    "image in a tar": (
        lambda d: sparse(d / "x.tar", header(f"val/{WNIDS[0]}/a.jpg", MEMBER), 512 + MEMBER + 10240),
        lambda d: images(d / "x.tar"),
        "0: has 10,737,418,240 bytes",
    ),
    "name in a tar": (lambda d: sparse(d / "x.tar", header("x", MEMBER, b"L")), lambda d: images(d / "x.tar"), "3"),
    "text in a tar": (lambda d: sparse(d / "x.tar", header("x", MEMBER, b"x")), lambda d: images(d / "x.tar"), "3"),
    "text in ILSVRC's tar": (lambda d: sparse(d / "ILSVRC2012_img_val.tar", header("x", MEMBER, b"g")), images, "3"),
    "text in a class's tar": (lambda d: sparse(d / f"{WNIDS[0]}.tar", header("x", MEMBER, b"x")), training, "3"),
    "image in a zip": (
        lambda d: zip_bomb(d / "x.zip", f"val/{WNIDS[0]}/a.jpg", 1 << 29),
        lambda d: images(d / "x.zip"),
        "0: has 536,870,912 bytes",
    ),
    "list of a zip": (
        lambda d: with_end(d / "x.zip", b"PK\3\4", zip_list(HUGE)),
        lambda d: images(d / "x.zip"),
        "3",
    ),
    "val.txt": (lambda d: (caffe(d), sparse(d / "val.txt")), images, "3"),
    "a line of val.txt": (lambda d: (caffe(d), sparse(d / "val.txt", b"a.jpg 0\n", 50_000_000)), images, "3"),
    "short lines of val.txt": (lambda d: (caffe(d), (d / "val.txt").write_bytes(b"a\n" * 50_000_000)), images, "3"),
    "wrong lines of val.txt": (lambda d: (caffe(d), (d / "val.txt").write_bytes(b"a\n" * 2_000_000)), images, "3"),
    "table of val.txt": (lambda d: (caffe(d), sparse(d / "synset_words.txt")), images, "3"),
    "classes.tsv": (lambda d: (classes(d), sparse(d / "classes.tsv")), images, "3"),
    "words.txt": (lambda d: (classes(d), sparse(d / "words.txt")), images, "3"),
    "classes.tsv in a zip": (
        lambda d: (zip_bomb(d / "x.zip", "classes.tsv", 1 << 25), add_images(d / "x.zip")),
        lambda d: images(d / "x.zip"),
        "3",
    ),
    "wnids.txt": (lambda d: (tiny(d), sparse(d / "wnids.txt")), images, "3"),
    "val_annotations.txt": (lambda d: (tiny(d), sparse(d / "val/val_annotations.txt")), images, "3"),
    "LOC_synset_mapping.txt": (lambda d: (kaggle(d), sparse(d / "LOC_synset_mapping.txt")), images, "3"),
    "LOC_val_solution.csv": (lambda d: (kaggle(d), sparse(d / "LOC_val_solution.csv")), images, "3"),
    "meta.mat": (lambda d: (flat(d), sparse(d / "devkit/data/meta.mat")), images, "3"),
    "ground truth": (
        lambda d: (flat(d), sparse(d / "devkit/data/ILSVRC2012_validation_ground_truth.txt")),
        images,
        "3",
    ),
    "devkit's archive": (
        lambda d: (text(d / "ILSVRC2012_val_00000001.JPEG", "x"), sparse(d / "ILSVRC2012_devkit_t12.tar.gz")),
        images,
        "3",
    ),
    "devkit's archive, checked": (
        lambda d: (caffe(d), sparse(d / "ILSVRC2012_devkit_t12.tar.gz")),
        checked,
        "ILSVRC2012_devkit_t12.tar.gz is not the official archive",
    ),
    "devkit, unpacked": (
        lambda d: (
            text(d / "ILSVRC2012_val_00000001.JPEG", "x"),
            devkit_bomb(d / "ILSVRC2012_devkit_t12.tar.gz"),
        ),
        images,
        "3",
    ),
    "photo": (lambda d: sparse(d / "a.jpg"), lambda d: photo(d / "a.jpg"), "3"),
    "photo in a folder": (lambda d: sparse(d / "a.jpg"), photo, "3"),
    "--classes of eval": (lambda d: sparse(d / "x"), lambda d: scoring(str(d / "x")), "3"),
    "--labels": (lambda d: sparse(d / "x"), lambda d: scoring(labels=d / "x"), "3"),
    "--mce-baseline": (lambda d: sparse(d / "x"), lambda d: baseline(d / "x"), "3"),
    "--preprocessing": (lambda d: sparse(d / "x"), lambda d: convention(d / "x"), "4"),
    "registry": (lambda d: sparse(d / "x"), lambda d: nets(d / "x"), "4"),
    "model file": (lambda d: sparse(d / "x.safetensors"), lambda d: model(d / "x.safetensors"), "4"),
    "header": (lambda d: sparse(d / "x", tensors(90_000_000), 2**28), lambda d: model(d / "x"), "4"),
    "header, described": (lambda d: sparse(d / "x", tensors(90_000_000), 2**28), lambda d: described(d / "x"), "4"),
    "weights": (lambda d: sparse(d / "x", weights()), lambda d: model(d / "x"), "4"),
    "checkpoint": (lambda d: sparse(d / "x.safetensors", weights()), lambda d: imported(d / "x.safetensors"), "4"),
    "ONNX file": (lambda d: sparse(d / "x.onnx"), lambda d: described(d / "x.onnx"), "4"),
    "imported ONNX file": (lambda d: sparse(d / "x.onnx"), lambda d: imported(d / "x.onnx"), "4"),
    "Caffe net": (lambda d: sparse(d / "x.caffemodel"), lambda d: imported(d / "x.caffemodel"), "4"),
    "PyTorch file": (lambda d: sparse(d / "x.pth"), lambda d: imported(d / "x.pth"), "4"),
    "list of a PyTorch file": (
        lambda d: with_end(d / "x.pth", b"PK\3\4", zip_list(2**31), 2**31),
        lambda d: imported(d / "x.pth", format="state-dict"),
        "4",
    ),
    "tar as a model": (lambda d: sparse(d / "x", header("x", MEMBER, b"x")), lambda d: imported(d / "x"), "4"),
    "zip as a model": (lambda d: with_end(d / "x", b"PK\3\4", zip_list(HUGE)), lambda d: imported(d / "x"), "4"),
    "copy of a published file": (lambda d: sparse(d / "x"), lambda d: copy(d / "x"), "4"),
    "engine": (
        lambda d: (save_engine(d / "x.engine", engine_of(b"plan")), sparse(d / "x.engine")),
        lambda d: engine(d / "x.engine"),
        "4",
    ),
    "engine's description": (
        lambda d: (text(d / "x.engine", "x"), sparse(d / "x.engine.json")),
        lambda d: engine(d / "x.engine"),
        "4",
    ),
    "timings and kernels": (lambda d: (sparse(d / "x.timings"), sparse(d / "x.kernels")), timings, "b''"),
    "chosen runtime": (lambda d: sparse(d / "x"), lambda d: choice(d / "x"), "None"),
    "README to replace": (lambda d: sparse(d / "README.md"), lambda d: readme(d / "README.md"), "2"),
    "text of an array": (
        lambda d: (np_array(d / "f.npy"), sparse(d / "f.npy.jsonl")),
        lambda d: features(d / "f.npy"),
        "3",
    ),
    "a line of the text of an array": (
        lambda d: (np_array(d / "f.npy"), sparse(d / "f.npy.jsonl", b"{", 2**29)),
        lambda d: features(d / "f.npy"),
        "3",
    ),
    "list of a .npz": (
        lambda d: with_end(d / "f.npz", b"PK\3\4", zip_list(HUGE)),
        lambda d: features(d / "f.npz"),
        "3",
    ),
    "names in a .npz": (
        lambda d: npz(d / "f.npz", "names", (start := npy("2000000000000,", "<U1")), len(start) + 8 * 10**12),
        lambda d: features(d / "f.npz"),
        "3",
    ),
    "long names in a .npz": (
        lambda d: npz(d / "f.npz", "names", (start := npy("16000000,", "<U30000")), len(start) + 4 * 480 * 10**9),
        lambda d: features(d / "f.npz"),
        "3",
    ),
    "description in a .npz": (
        lambda d: npz(d / "f.npz", "about", (start := npy("", "<U99999999")), len(start) + 4 * 99999999),
        lambda d: features(d / "f.npz"),
        "3",
    ),
    "features in Parquet": (lambda d: sparse(d / "f.parquet", b"PAR1"), lambda d: features(d / "f.parquet"), "3"),
    "footer of features in Parquet": (
        lambda d: with_end(d / "f.parquet", b"PAR1", (2**31).to_bytes(4, "little") + b"PAR1"),
        lambda d: features(d / "f.parquet"),
        "3",
    ),
    "features in HDF5": (
        lambda d: sparse(d / "f.h5", b"\x89HDF\r\n\x1a\n"),
        lambda d: features(d / "f.h5"),
        "3" if installed("h5py") else "5",
    ),
    "config of a repository": (lambda d: sparse(d / "config.pbtxt"), repository, "2"),
    "labels of a repository": (
        lambda d: (text(d / "config.pbtxt", "# alexnet-infer: {}\n"), sparse(d / "labels.txt")),
        repository,
        "2",
    ),
}
"""Every kind of file that is read. A new kind is one entry."""


def weights() -> bytes:
    """The header of a file with one tensor that takes HUGE bytes together with its header."""
    for spaces in range(100):
        fields = {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 0]}}
        content = b""
        for _ in range(3):
            count = (HUGE - 8 - len(content)) // 4 * 4
            fields["x"] |= {"shape": [count // 4], "data_offsets": [0, count]}
            content = json.dumps(fields).encode() + b" " * spaces
        if 8 + len(content) + count == HUGE:
            return len(content).to_bytes(8, "little") + content
    raise AssertionError


def late(*_: object) -> None:
    raise TimeoutError


def child(folder: Path) -> None:
    """Read all kinds of files in `folder` with little memory, and print what happened, as JSON."""
    import resource

    import onnx  # noqa: F401 (before the memory is limited)

    import alexnet_infer.commands.evaluate  # noqa: F401
    from alexnet_infer.errors import AlexNetInferError

    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    outcomes: list[dict[str, tuple[str, str]]] = [{}, {}]
    signal.signal(signal.SIGALRM, late)
    for (kind, (_, read, _)), which in itertools.product(KINDS.items(), (HUGE_FILES, PIPES)):
        signal.alarm(SECONDS)
        try:
            outcome = "returned", str(read(folder / str(which) / kind))
        except AlexNetInferError as error:
            outcome = str(error.exit_code), str(error)
        except BaseException as error:
            outcome = type(error).__name__, str(error)
        outcomes[which][kind] = outcome
    # Not ru_maxrss: after fork and exec it is at least the parent's.
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps([outcomes, peak * 1024]))


def copy_with_pipes(folder: Path, target: Path) -> None:
    """Copy a folder, with a pipe in place of each huge file. Nobody ever writes to the pipes."""
    for path in sorted(folder.rglob("*")):
        copy = target / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size > 2**27:
            os.mkfifo(copy)
        elif path.is_file():
            shutil.copyfile(path, copy)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> list[dict[str, tuple[str, str]]]:
    """What happened to the huge files and to the pipes: kind -> (exit code or "returned", message or result)."""
    folder = tmp_path_factory.mktemp("huge")
    for kind, (make, _, _) in KINDS.items():
        (folder / str(HUGE_FILES) / kind).mkdir(parents=True)
        make(folder / str(HUGE_FILES) / kind)
        copy_with_pipes(folder / str(HUGE_FILES) / kind, folder / str(PIPES) / kind)
    command = [sys.executable, "-c", f"from tests.test_sizes import *; child(Path({str(folder)!r}))"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=300)
    assert done.returncode == 0, done.stderr
    outcomes, peak = json.loads(done.stdout)
    assert peak < 10**9
    return outcomes


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipe_is_never_waited_for_and_is_refused_in_one_short_line(outcomes, kind):
    how, message = outcomes[PIPES][kind]
    assert how in ("returned", "2", "3", "4"), (how, message)
    assert message.isprintable()
    assert len(message) < 600


@pytest.mark.parametrize("kind", KINDS)
def test_a_huge_file_is_refused_in_one_short_line_and_takes_no_memory(outcomes, kind):
    _, _, expected = KINDS[kind]
    how, message = outcomes[HUGE_FILES][kind]
    if expected.isdigit():
        assert how == expected, message
        assert message.isprintable()
        assert len(message) < 600
    else:
        assert how == "returned", (how, message)
        assert expected in message
