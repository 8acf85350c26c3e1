"""Images of large row groups are read one at a time: the same as by pyarrow, in bounded memory, or refused."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_infer.datasets import LabelledImages, open_images, parquet_pages, parquet_shard
from alexnet_infer.datasets.parquet_pages import PageError, footer
from alexnet_infer.errors import UnreadableInputError
from tests.datasets.mini import refused

pyarrow = pytest.importorskip("pyarrow", reason="Parquet sets need pyarrow")
parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet sets need pyarrow")

CLASSES = "n01443537\tgoldfish\nn02123045\ttabby\n"
TYPE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
NAME = "validation-00000-of-00001.parquet"


def write(folder: Path, images: list[bytes | None], kind: pyarrow.DataType = TYPE, **options: object) -> Path:
    """A set of one shard. An image that is None has no bytes, and of b"-" the whole structure is missing."""
    rows = [None if data == b"-" else {"bytes": data, "path": f"{i}.png"} for i, data in enumerate(images)]
    schema = pyarrow.schema([pyarrow.field("image", kind, options.pop("nullable", True)), ("label", pyarrow.int64())])
    table = pyarrow.table([pyarrow.array(rows, kind), pyarrow.array([i % 2 for i in range(len(rows))])], schema)
    (folder / "classes.tsv").write_text(CLASSES)
    parquet.write_table(table, folder / NAME, **options)
    return folder


def mixed(count: int) -> list[bytes | None]:
    """Bytes of every kind for a compressor: none, missing, noise, runs, and text that repeats near and far."""
    rng = random.Random(count)
    noise = rng.randbytes(90_000)
    kinds = (
        lambda: b"",
        lambda: None,
        lambda: b"-",
        lambda: rng.randbytes(rng.randrange(3000)),
        lambda: bytes([rng.randrange(256)]) * rng.randrange(100_000),
        lambda: b"abc" * rng.randrange(9000) + noise[: rng.randrange(90_000)],
    )
    return [rng.choice(kinds)() for _ in range(count)]


@pytest.fixture
def always_here(monkeypatch):
    """All images are read here and none by pyarrow."""
    monkeypatch.setattr(parquet_shard, "LARGE", 0)
    monkeypatch.setattr(parquet_shard, "MOST", 0)
    monkeypatch.setattr(parquet_shard.Shard, "_rows", _unlimited(parquet_shard.Shard._rows))


def _unlimited(method):
    def rows(self, group, columns, names):
        assert "image.bytes" not in names
        return method(self, group, {}, names)

    return rows


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "zstd", "brotli"])
@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}, {"data_page_version": "2.0"}], ids=str)
def test_images_are_the_same_as_those_that_were_written(tmp_path, always_here, codec, options):
    images = mixed(150)
    write(tmp_path, images, compression=codec, row_group_size=60, data_page_size=50_000, write_batch_size=7, **options)
    examples = list(LabelledImages(tmp_path, "validation").examples(on_error="yield"))
    assert [example.data for example in examples] == [b"" if data in (None, b"-") else data for data in images]
    assert [example.label for example in examples] == [i % 2 for i in range(150)]


@pytest.mark.parametrize("nullable", [True, False])
def test_images_that_can_not_be_missing_have_fewer_levels(tmp_path, always_here, nullable):
    kind = pyarrow.struct([pyarrow.field("bytes", pyarrow.binary(), nullable), ("path", pyarrow.string())])
    images = [b"%d" % i * 50 for i in range(40)]
    write(tmp_path, images, kind, nullable=nullable)
    assert [example.data for example in LabelledImages(tmp_path, "validation")] == images


def test_repeated_images_of_a_dictionary_are_found_again(tmp_path, always_here):
    images = [b"first" * 100, b"second", b"first" * 100, b"second", b"third", b"third"]
    write(tmp_path, images)
    assert [example.data for example in LabelledImages(tmp_path, "validation")] == images


def test_any_positions_are_read_without_the_row_groups_between_them(tmp_path, always_here):
    write(tmp_path, [b"%d" % i for i in range(100)], row_group_size=10, use_dictionary=False, compression="none")
    path = tmp_path / NAME
    positions = [0, 3, 4, 29, 70, 99]
    chunk = parquet.ParquetFile(path).metadata.row_group(4).column(0)
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset : chunk.data_page_offset + 20] = b"\xff" * 20
    path.write_bytes(content)
    images = open_images(tmp_path)
    assert [example.data for example in images.at(positions, "raise")] == [b"%d" % i for i in positions]
    refused(lambda: list(images.at([45], "raise")), "can't be read as Parquet (the header of a page is damaged)")


@pytest.mark.parametrize("compression", ["snappy", "zstd"])
def test_an_image_beyond_the_limit_is_named_and_the_others_are_read(tmp_path, always_here, monkeypatch, compression):
    monkeypatch.setattr(parquet_pages, "MAX_BYTES", 1000)
    write(tmp_path, [b"a", b"x" * 200_000, b"c" * 1000, b"d" * 1001], compression=compression)
    examples = list(LabelledImages(tmp_path, "validation").examples(on_error="yield"))
    assert [(example.name, len(example.data)) for example in examples] == [
        *(("0.png", 1), ("1.png", 0), ("2.png", 1000), ("3.png", 0))
    ]
    assert [example.error is None for example in examples] == [True, False, True, False]
    assert "too large: expected at most 264,000,000 bytes" in examples[1].error
    refused(lambda: list(LabelledImages(tmp_path, "validation")), f"{NAME}, row 1: too large")


READ = """
    import resource, sys
    from pathlib import Path
    from alexnet_infer.datasets import open_images
    total = sum(len(example.data) for example in open_images(Path(sys.argv[1])).examples(0, "yield"))
    print(total, next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read the peak memory from")
def test_memory_does_not_grow_with_the_row_group(tmp_path):
    images = [random.Random(i).randbytes(2_000_000) for i in range(50)]
    write(tmp_path, images, compression="none")
    assert parquet.ParquetFile(tmp_path / NAME).metadata.row_group(0).num_rows == 50
    code = "\n".join(line[4:] for line in READ.splitlines())
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, cwd=root, check=True
    )
    total, peak = map(int, result.stdout.split())
    assert total == 100_000_000
    assert peak * 1024 < 150_000_000


def test_paths_that_are_not_text_are_no_names(tmp_path):
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.binary())])
    (tmp_path / "classes.tsv").write_text(CLASSES)
    image = pyarrow.array([{"bytes": b"x", "path": b"a.png"}], kind)
    parquet.write_table(pyarrow.table({"image": image, "label": pyarrow.array([0])}), tmp_path / NAME)
    images = LabelledImages(tmp_path, "validation")
    assert [example.name for example in images] == [f"{NAME}, row 0"]
    assert images.listing


# Damaged and hostile files


def test_a_file_with_changed_bytes_is_read_or_refused_in_one_line(tmp_path, always_here):
    rng = random.Random(0)
    refusals = []
    for codec in ("none", "snappy", "zstd"):
        for options in ({}, {"use_dictionary": False}, {"data_page_version": "2.0"}):
            path = write(tmp_path, [b"%d" % i * 40 for i in range(30)], compression=codec, **options) / NAME
            sound = path.read_bytes()
            for _ in range(40):
                damaged = bytearray(sound)
                for _ in range(rng.choice((1, 1, 4))):
                    damaged[rng.randrange(len(damaged))] = rng.randrange(256)
                path.write_bytes(damaged)
                try:
                    list(LabelledImages(tmp_path, "validation").examples(on_error="yield"))
                except UnreadableInputError as error:
                    refusals.append(str(error))
    assert len(refusals) > 50
    assert all(message.isprintable() and len(message) < 600 for message in refusals)


def shard(footer_bytes: bytes) -> bytes:
    return b"PAR1" + footer_bytes + struct.pack("<I", len(footer_bytes)) + b"PAR1"


@pytest.mark.parametrize(
    "content",
    [
        shard(b"\x49\xfc" + b"\xff\xff\xff\xff\x07" + bytes(600_000)),  # two thousand million empty row groups
        shard(b"\x1c" * 100_000),
        shard(b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01x"),
        shard(b"\x19" * 1000),
        b"PAR1" + struct.pack("<I", 2**31) + b"PAR1",
        b"PAR1" + bytes(20_000_000) + struct.pack("<I", 17_000_000) + b"PAR1",
    ],
    ids=["many records", "nested records", "long text", "nested lists", "no such footer", "large footer"],
)
def test_a_footer_that_would_take_gigabytes_is_refused_before_pyarrow_reads_it(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    (tmp_path / "classes.tsv").write_text(CLASSES)
    with (tmp_path / NAME).open("rb") as file, pytest.raises(PageError):
        footer(file)
    refused(lambda: LabelledImages(tmp_path, "validation"), NAME, "can't be read as Parquet (")


@pytest.mark.parametrize("codec", ["zstd", "snappy"])
def test_a_small_file_of_large_labels_or_names_is_refused(tmp_path, monkeypatch, codec):
    monkeypatch.setattr(parquet_shard, "MOST", 1_000_000)
    (tmp_path / "classes.tsv").write_text(CLASSES)
    image = pyarrow.array([{"bytes": b"x", "path": "y" * 400_000}])
    table = pyarrow.table({"image": image, "label": pyarrow.array([0])})
    parquet.write_table(table, tmp_path / NAME, compression=codec)
    images = LabelledImages(tmp_path, "validation")
    refused(lambda: list(images), "row group 0 takes more than 1,000,000 bytes to read (image.", "write it in smaller")


def test_a_value_of_a_dictionary_is_not_repeated_in_memory(tmp_path):
    once = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 200), pyarrow.array([bytes(10_000_000)]))
    image = pyarrow.StructArray.from_arrays([once, pyarrow.array(["x.png"] * 200)], ["bytes", "path"])
    table = pyarrow.table({"image": image, "label": pyarrow.array([0] * 200)})
    parquet.write_table(table, tmp_path / NAME, compression="zstd", store_schema=False)
    (tmp_path / "classes.tsv").write_text(CLASSES)
    code = "\n".join(line[4:] for line in READ.splitlines())
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=root, check=True)
    total, peak = map(int, done.stdout.split())
    assert total == 200 * 10_000_000
    assert peak * 1024 < 600_000_000


def with_footer(path: Path, change: Callable[[bytes], bytes]) -> None:
    content = path.read_bytes()
    size = int.from_bytes(content[-8:-4], "little")
    changed = change(content[-8 - size : -8])
    path.write_bytes(content[: -8 - size] + changed + struct.pack("<I", len(changed)) + b"PAR1")


@pytest.mark.parametrize(
    "change",
    [
        lambda old: old.replace(b"\x28\x05image\x05bytes", b"\x28\x05image\x05bytex"),
        lambda old: old.replace(b"\x28\x05image\x05bytes", b"\x28\x05image\x04path"),
        lambda old: old.replace(b"\x28\x05image\x04path", b"\x28\x05image\x05bytes"),
    ],
    ids=["unknown", "two paths", "two images"],
)
def test_columns_are_at_the_positions_that_the_schema_says(tmp_path, change):
    write(tmp_path, [b"x", b"y"])
    with_footer(tmp_path / NAME, change)
    refused(lambda: list(LabelledImages(tmp_path, "validation")), "of row group 0 is 'image.", "expected 'image.")


def test_two_columns_of_one_path_are_refused(tmp_path):
    (tmp_path / "classes.tsv").write_text(CLASSES)
    columns = {"image": pyarrow.array([{"bytes": b"x", "path": "a"}], TYPE), "image.bytes": pyarrow.array([b"y" * 99])}
    parquet.write_table(pyarrow.table({**columns, "label": pyarrow.array([0])}), tmp_path / NAME)
    refused(lambda: list(LabelledImages(tmp_path, "validation")), "is 'image.bytes'; expected 'image.bytes' once")


def test_thousands_of_small_row_groups_are_read(tmp_path):
    write(tmp_path, [b"x"] * 6000, row_group_size=1)
    assert len(LabelledImages(tmp_path, "validation")) == 6000


def records(content: bytes, values: int = 100) -> parquet_pages.Record:
    return parquet_pages._Records(io.BytesIO(content), values).record()


@pytest.mark.parametrize(
    "content",
    [
        b"\x15\x02\x05\x02\x04\x00",
        b"\x15\x80\x80\x80\x80\x10\x00",
        b"\x05\x96\x80\x08\x02\x00",
        b"\x49\x15\x02\x00",
        b"\x16" + b"\xff" * 9 + b"\x01\x00",
        b"\x11" * 200 + b"\x00",
        b"\x19\xf1\xc8\x01" + bytes(200) + b"\x00",
        b"\x19\xfc\x28" + bytes(41),
    ],
    ids=[
        "field twice",
        "33 bits",
        "field 65547",
        "row groups of numbers",
        "64 bits",
        "flags",
        "list of flags",
        "empty",
    ],
)
def test_what_pyarrow_would_read_in_another_way_or_as_too_many_values_is_refused(content):
    with pytest.raises(PageError):
        records(content)
    assert records(b"\x15\x02\x16\x04\x00") == {(1, 5): 1, (2, 6): 2}


def test_the_encoding_of_a_page_is_the_value_that_pyarrow_takes():
    about = b"\x15\x02\x15\x0e\x06\x04\x00\x15\x06\x15\x06\x00"  # 2: 7 of 32 bits, and then 0 of 64 bits
    content = b"\x15\x00\x15\x14\x15\x14\x2c" + about + b"\x00" + bytes(10)
    chunk = {(4, 5): 0, (5, 6): 1, (7, 6): len(content), (9, 6): 0}
    assert parquet_pages.Column(io.BytesIO(content), chunk, 1).sizes() == (len(content) + 30, 40)


def test_a_number_of_repeated_values_has_at_most_63_bits():
    content = b"\x80" * 9 + b"\x02" + bytes(9)
    with pytest.raises(PageError):
        next(parquet_pages._numbers(content, 2))


def test_what_is_not_read_here_is_left_to_pyarrow_up_to_a_limit(tmp_path, monkeypatch):
    images = [b"%d" % i * 1000 for i in range(20)]
    write(tmp_path, images, compression="lz4")
    monkeypatch.setattr(parquet_shard, "LARGE", 10_000)
    assert [example.data for example in LabelledImages(tmp_path, "validation")] == images
    monkeypatch.setattr(parquet_shard, "MOST", 20_000)
    refused(
        lambda: list(LabelledImages(tmp_path, "validation")),
        "more than 20,000 bytes to read (image.bytes, image.path, label)",
    )


def test_references_before_the_start_of_snappys_output_are_refused():
    for packed in (b"\x04\x01\x01", b"\x05\x00a\x05\x02", b"\x08\x00a\x0e\xff\xff", b"\xff" * 12, b"\x64\xf0"):
        with pytest.raises(PageError):
            b"".join(parquet_pages._unpacked(io.BytesIO(packed)))
    assert b"".join(parquet_pages._unpacked(io.BytesIO(b"\x08\x00a\x0d\x01"))) == b"a" * 8
