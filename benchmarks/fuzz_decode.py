"""Feeds damaged images to the decoder: each must give an RGB image or a one-line error, within 10 s and 600 MB.

    nice python -m benchmarks.fuzz_decode --minutes 60 [--seed 0] [--format JPEG PNG ...]

The images are small ones of every kind that Pillow can write and the photos in examples/, with changed bytes, lengths
and sizes, and with parts cut, joined and repeated. They are decoded in a separate process, which may print nothing. An
image that breaks a rule is saved in the current folder, so that it can become a test, and so is the slowest of each
format. Needs Linux, for the peak memory of one image, and the packages that the tests need.
"""

from __future__ import annotations

import argparse
import io
import logging
import multiprocessing
import os
import random
import struct
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image, features

from alexnet_infer.decode import read_rgb
from alexnet_infer.errors import UnreadableInputError

SECONDS, MEMORY = 10, 600
"""The most that an image may take. MEMORY is in MB (10^6 bytes) and includes the interpreter."""

SHRINK_TO = 256
EXAMPLES = Path(__file__).parents[1] / "examples"
INTERESTING = (0, 1, 2, 8, 127, 128, 255, 256, 5_744, 0x7FFF, 0xFFFF, 2**24, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1)
"""Numbers for lengths, offsets and sizes. 5,744 squared is nearly the largest image that is read."""


def seeds() -> dict[str, list[bytes]]:
    """Format -> valid images."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (40, 56, 4), np.uint8)
    smooth = np.asarray(Image.fromarray(noise[:5, :7]).resize((56, 40), Image.Resampling.BICUBIC))
    rgba, grey = Image.fromarray(smooth), Image.fromarray(smooth[..., 0])
    rgb, frames = rgba.convert("RGB"), [Image.fromarray(noise[..., i]) for i in range(3)]
    cmyk, palette, bilevel = rgb.convert("CMYK"), rgb.quantize(16), grey.convert("1")
    wide = Image.fromarray(smooth[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[274] = 6
    many = {"save_all": True, "append_images": frames}
    compressions = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "zstd", "lzma")
    made = {
        "JPEG": [
            *((rgb, {"exif": exif}), (grey, {"progressive": True}), (rgb, {"progressive": True, "quality": 95})),
            *((cmyk, {}), (cmyk, {"progressive": True}), (rgb, {"restart_marker_blocks": 2, "comment": "text"})),
            (rgb, {"icc_profile": b"no profile" * 9, "xmp": b"<x/>"}),
        ],
        "MPO": [(rgb, many)],
        "PNG": [
            *((image, {"exif": exif}) for image in (rgb, rgba, grey, palette, bilevel, wide, rgba.convert("LA"))),
            *((palette, {"transparency": 1}), (rgb, {"icc_profile": b"no profile" * 9}), (rgb, many)),
        ],
        "GIF": [(palette, {}), (palette, {"transparency": 1, **many}), (grey, {"interlace": 0})],
        "WEBP": [(rgba, {"exif": exif}), (rgb, {"lossless": True}), (rgba, {"lossless": True}), (rgb, many)],
        "BMP": [(image, {}) for image in (rgb, rgba, grey, palette, bilevel)],
        "PPM": [(image, {}) for image in (rgb, grey, bilevel, wide)],
        "TIFF": [
            *((rgb, {"compression": kind, "exif": exif}) for kind in compressions),
            *((bilevel, {"compression": kind}) for kind in ("group3", "group4", "tiff_ccitt")),
            *((image, {}) for image in (rgba, grey, palette, cmyk, wide, rgb.convert("LAB"), rgb.convert("YCbCr"))),
            *(
                (rgb, {"big_tiff": True}),
                (rgb, {"save_all": True, "append_images": [grey]}),
                (rgb, {"compression": "tiff_lzw", "tiffinfo": {317: 2, 278: 3}}),
            ),
        ],
    }
    if features.check("avif"):
        made["AVIF"] = [(rgb, {"exif": exif}), (rgba, {}), (rgb, {"subsampling": "4:4:4"}), (rgb, many)]
    if features.check("jpg_2000"):
        made["JPEG2000"] = [
            *((rgb, {}), (rgba, {}), (grey, {}), (wide, {}), (rgb, {"no_jp2": True})),
            (rgb, {"tile_size": (16, 16), "quality_layers": [40, 20, 1], "irreversible": True, "num_resolutions": 3}),
        ]
    files = {kind: [_saved(image, kind, options) for image, options in images] for kind, images in made.items()}
    files["JPEG"] += [path.read_bytes() for path in sorted(EXAMPLES.glob("*.jpg"))]
    files["PNG"].append(_interlaced(56, 40))
    files["BMP"] += [_run_lengths(56, 40, compression) for compression in (1, 2)]
    files["PPM"].append(b"P3\n# comment\n7 5 255\n" + b"12 0 255 " * 35)
    return files


def _saved(image: Image.Image, kind: str, options: dict) -> bytes:
    stream = io.BytesIO()
    image.copy().save(stream, kind, **options)  # a copy: Pillow keeps some options in the image
    return stream.getvalue()


def _interlaced(width: int, height: int) -> bytes:
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    lines = b"".join(
        (b"\0" + bytes(range(len(range(x, width, dx))))) * len(range(y, height, dy)) for x, y, dx, dy in passes
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return _PNG + b"".join(_chunk(kind, content) for kind, content in parts)


def _run_lengths(width: int, height: int, compression: int) -> bytes:
    """A BMP of RLE8 (1) or RLE4 (2)."""
    colours = 256 if compression == 1 else 16
    data = bytes([width, 7, 0, 0]) * height + b"\0\1"
    offset = 54 + 4 * colours
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8 // compression, compression, len(data), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + bytes(4 * colours) + data


_PNG = b"\x89PNG\r\n\x1a\n"


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _with_checksums(png: bytes) -> bytes:
    """A damaged PNG whose chunks have the right checksums: with wrong ones, its content is never looked at."""
    parts, place = [png[:8]], 8
    while place + 12 <= len(png):
        end = place + 8 + int.from_bytes(png[place : place + 4])
        parts += [png[place:end], struct.pack(">I", zlib.crc32(png[place + 4 : end]))]
        place = end + 4
    return b"".join(parts)


def damaged(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """Return `content` with a few changes, most of them near its start. `other` is a file to take parts from."""
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 6))):
        position = rng.randrange(min(len(out), rng.choice((64, 800, 2**30))) or 1)
        length = rng.choice((1, 2, 4, 8, 30, 300, 5000))
        match rng.randrange(9):
            case 0:
                out[position : position + 1] = rng.randbytes(1)
            case 1:
                out[position : position + 1] = bytes(b ^ 1 << rng.randrange(8) for b in out[position : position + 1])
            case 2:
                del out[position : position + length]
            case 3:
                out[position:position] = rng.randbytes(length)
            case 4:
                size, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
                value = rng.choice(INTERESTING) + rng.choice((-1, 0, 0, 1))
                out[position : position + size] = (value % 2 ** (8 * size)).to_bytes(size, order)
            case 5:
                del out[position + rng.randrange(len(out) - position or 1) :]
            case 6:
                begin = rng.randrange(len(other))
                out[position : position + rng.choice((0, length))] = other[begin : begin + length]
            case 7:
                block = bytes(out[position : position + length])
                out[position:position] = block * min(rng.choice((1, 3, 100, 20_000)), 4_000_000 // length)
            case 8:
                begin = rng.randrange(len(out) or 1)
                out[position : position + 8] = out[begin : begin + 8]
    out = bytes(out)
    return _with_checksums(out) if out.startswith(_PNG) and rng.random() < 0.8 else out


@dataclass
class Reader:
    """A process that decodes images, and is started again after it broke."""

    log: io.FileIO
    process: multiprocessing.Process | None = None
    connection: Connection | None = None

    def read(self, image: bytes) -> tuple[str, float, float]:
        """Return "read", "refused" or what was wrong, and the seconds and the peak memory in MB that it took."""
        if self.process is None:
            self.connection, theirs = multiprocessing.Pipe()
            self.process = multiprocessing.Process(target=_decode, args=(theirs, self.log.fileno()), daemon=True)
            self.process.start()
            theirs.close()
        self.connection.send_bytes(image)
        try:
            if not self.connection.poll(SECONDS):
                outcome = f"takes more than {SECONDS} s", SECONDS, 0.0
                self.stop()
                return outcome
            outcome, seconds, peak = self.connection.recv()
        except EOFError:
            code = self.stop()
            return f"the process ends with {code}", 0.0, 0.0
        if peak > MEMORY:
            outcome = f"takes {peak:.0f} MB"
        if text := self.printed():
            outcome = f"prints {text[:100]!r}"
        return outcome, seconds, peak

    def printed(self) -> bytes:
        """Return what the process has printed since the last call."""
        self.log.seek(0)
        text = self.log.read()
        self.log.seek(0)
        self.log.truncate()
        return text

    def stop(self) -> int | None:
        self.process.kill()
        self.process.join()
        code, self.process = self.process.exitcode, None
        self.connection.close()
        return code


def _decode(connection: Connection, log: int) -> None:
    logging.getLogger("alexnet_infer").disabled = True  # its notes about EXIF
    for stream in (1, 2):
        os.dup2(log, stream)
    while True:
        image = connection.recv_bytes()
        Path("/proc/self/clear_refs").write_text("5")  # the peak is that of this image
        started = time.perf_counter()
        try:
            mode = read_rgb(image, name="photo", shrink_to=SHRINK_TO).mode
            outcome = "read" if mode == "RGB" else f"has mode {mode}"
        except UnreadableInputError as error:
            text = str(error)
            outcome = "refused" if text.isprintable() and len(text) < 600 else f"says {text!r}"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - started
        status = Path("/proc/self/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        connection.send((outcome, seconds, peak * 1024 / 1e6))


@dataclass
class Count:
    """What became of the images of one format."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0
    """Of the slowest."""
    slowest: bytes = b""
    peak: float = 0
    """The largest, in MB."""


def fuzz(kinds: list[str], minutes: float, seed: int) -> dict[str, Count]:
    """Feed images to a process for some minutes, the formats in turn. Save those that break a rule."""
    rng, files = random.Random(seed), seeds()
    everything = [data for kind in files.values() for data in kind]
    counts: dict[str, Count] = {kind: Count() for kind in kinds}
    with tempfile.TemporaryFile(buffering=0) as log:
        reader = Reader(log)
        for kind in _in_turn(kinds, minutes):
            other = rng.choice(everything if rng.random() < 0.1 else files[kind])
            image = damaged(rng.choice(files[kind]), other, rng)
            outcome, seconds, peak = reader.read(image)
            count = counts[kind]
            if outcome not in ("read", "refused"):
                saved = Path(f"{kind}-{seed}-{sum(count.outcomes.values())}")
                saved.write_bytes(image)
                print(f"{saved}: {outcome}"[:300], flush=True)
                outcome = "wrong"
            count.outcomes[outcome] += 1
            count.peak = max(count.peak, peak)
            if seconds > count.seconds:
                count.seconds, count.slowest = seconds, image
        if reader.process is not None:
            reader.stop()
    return counts


def _in_turn(kinds: list[str], minutes: float) -> Iterator[str]:
    until = time.monotonic() + 60 * minutes
    while time.monotonic() < until:
        yield from kinds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="for all formats (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", nargs="+", choices=[*seeds()], default=[*seeds()])
    options = parser.parse_args()
    counts = fuzz(options.format, options.minutes, options.seed)
    for kind, count in counts.items():
        Path(f"{kind}-{options.seed}-slowest").write_bytes(count.slowest)
        outcomes = ", ".join(f"{number:,} {outcome}" for outcome, number in sorted(count.outcomes.items()))
        print(f"{kind}: {outcomes}; slowest {count.seconds:.2f} s, most memory {count.peak:.0f} MB")
    raise SystemExit(any(count.outcomes["wrong"] for count in counts.values()))


if __name__ == "__main__":
    main()
