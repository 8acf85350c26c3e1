"""The page's decoding and preprocessing, run in Chromium, against `decode` and `preprocess`."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Callable, Iterator

import numpy as np
import PIL
import pytest
from PIL import Image, ImageCms

from alexnet_infer.decode import read_rgb
from alexnet_infer.preprocess import FILTERS, RESAMPLES, WHOLE_PIXELS, Preprocessing, patches, square_of
from tests.chromium import Chromium
from tests.export.web.serving import FolderServer
from tests.export.web.test_site import PAGE_FOLDER, made, told

COLUMNS_FIRST = int(PIL.__version__.split(".")[0]) >= 13
"""Whether Pillow resamples some tall images along their columns first, as the page does."""

SHAPES = [(451, 300), (60, 40), (64, 64), (97, 131), (300, 301), (20, 33), (64, 200), (200, 64), (1, 1)]

LIBRARY = """
const text = (array) => {
  const bytes = new Uint8Array(array.buffer);
  let all = "";
  for (let i = 0; i < bytes.length; i += 32768) all += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(all);
};
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
"""


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def call(browser: Chromium, tmp_path_factory) -> Iterator[Callable[..., list]]:
    """Run a script with the page's modules `d` (decode.js) and `p` (preprocess.js), and return its JSON value."""
    server = FolderServer(PAGE_FOLDER)
    browser.open(server.url + "style.css")
    browser.wait("document.readyState == 'complete' && location.pathname == '/style.css'")

    def call(script: str, *arguments: object) -> list:
        modules = "const d = await import('/decode.js'), p = await import('/preprocess.js');"
        return browser.run(f"(async (...args) => {{{LIBRARY}{modules}{script}}})(...{json.dumps(arguments)})")

    yield call
    server.close()


def of_page(call, image: np.ndarray, preprocessing: dict, views: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Return the page's square and patches of an image uint8 [H, W, 3]."""
    height, width, _ = image.shape
    opaque = np.dstack([image, np.full((height, width), 255, np.uint8)])
    script = """
    const [pixels, width, height, how, views] = args;
    const square = p.squareOf({ data: bytes(pixels), width, height }, how);
    return [text(square), text(p.patches(square, how, p.meanOf(how), views))];
    """
    square, cut = call(script, encoded(opaque.tobytes()), width, height, preprocessing, views)
    size, patch = preprocessing["size"], preprocessing["patch"]
    return (
        np.frombuffer(base64.b64decode(square), np.uint8).reshape(size, size, 3),
        np.frombuffer(base64.b64decode(cut), np.float32).reshape(-1, 3, patch, patch),
    )


@pytest.mark.parametrize("fit", ["crop", "crop-torchvision", "stretch"])
@pytest.mark.parametrize("resample", RESAMPLES)
def test_the_same_pixels_give_the_same_patches_to_the_last_bit(call, tmp_path, fit, resample):
    views = told(made(tmp_path / "site"))["views"]
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate(SHAPES):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        unit = number % 2 == 0
        mean = rng.random((64, 64, 3)) if unit else np.array([123.3, 117.1, 104.7])
        preprocessing = Preprocessing(
            size=64,
            patch=57,
            mean=mean,
            resample=resample,
            fit=fit,
            channel_order="BGR" if number % 3 else "RGB",
            value_range="0-1" if unit else "0-255",
        )
        if height > width and resample in FILTERS and not COLUMNS_FIRST:
            continue
        how = {**preprocessing.to_json(), "whole_pixels": WHOLE_PIXELS}
        square, cut = of_page(call, image, how, views)
        expected = square_of(Image.fromarray(image), preprocessing.rescaling)
        np.testing.assert_array_equal(square, expected, err_msg=f"{width} x {height}")
        np.testing.assert_array_equal(cut, patches(expected, preprocessing), err_msg=f"{width} x {height}")


def test_a_strip_beyond_the_limit_is_rescaled_in_part_as_in_python(call):
    image = np.random.default_rng(0).integers(0, 256, (2, 4100, 3), dtype=np.uint8)
    preprocessing = Preprocessing(size=64, patch=57, mean=np.zeros(3), resample="bilinear", fit="crop-torchvision")
    assert WHOLE_PIXELS < 64 * 64 * 4100 // 2
    square, _ = of_page(call, image, {**preprocessing.to_json(), "whole_pixels": WHOLE_PIXELS}, [])
    np.testing.assert_array_equal(square, square_of(Image.fromarray(image), preprocessing.rescaling))


def photo() -> Image.Image:
    """A picture with smooth and sharp parts in all colours, whose sides no block of a JPEG divides."""
    y, x = np.mgrid[0:203, 0:301]
    waves = np.stack([np.sin(x / 9) * np.cos(y / 14), np.sin((x + y) / 25), np.cos(x * y / 2500)], -1)
    return Image.fromarray((127 + 110 * waves).astype(np.uint8))


def saved(kind: str, image: Image.Image | None = None, **options) -> bytes:
    file = io.BytesIO()
    (photo() if image is None else image).save(file, kind, **options)
    return file.getvalue()


def with_alpha() -> Image.Image:
    image = photo().convert("RGBA")
    image.putalpha(photo().convert("L"))
    return image


def swapping_profile() -> bytes:
    """An ICC profile that exchanges red and green: a browser that applies it shows wrong colours at once."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"????", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"????", b"gXYZ", 1)


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved("JPEG", exif=exif)


IMAGES = {
    "4:4:4": lambda: saved("JPEG", subsampling=0),
    "4:2:2": lambda: saved("JPEG", subsampling=1),
    "4:2:0": lambda: saved("JPEG", subsampling=2, quality=60),
    "progressive": lambda: saved("JPEG", progressive=True),
    "grey": lambda: saved("JPEG", photo().convert("L")),
    "CMYK": lambda: saved("JPEG", photo().convert("CMYK")),
    "colour profile": lambda: saved("JPEG", icc_profile=swapping_profile()),
    **{f"EXIF {n}": lambda n=n: turned(n) for n in range(1, 9)},
    "PNG": lambda: saved("PNG"),
    "transparent PNG": lambda: saved("PNG", with_alpha()),
    "GIF": lambda: saved("GIF", photo().quantize(64)),
    "BMP": lambda: saved("BMP"),
    "WebP": lambda: saved("WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_chromium_decodes_an_image_as_classify_does(call, kind):
    """JPEG decoders may round differently; a wrong turn, profile or background differs by tens of levels."""
    content = IMAGES[kind]()
    script = """
    const pixels = await d.decode(new Blob([bytes(args[0])]), 1e6);
    return [pixels.width, pixels.height, text(pixels.data)];
    """
    width, height, data = call(script, encoded(content))
    actual = np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)
    expected = np.asarray(read_rgb(content, name="photo"))
    assert (actual[:, :, 3] == 255).all()
    assert actual.shape[:2] == expected.shape[:2]
    assert np.abs(actual[:, :, :3].astype(int) - expected).max() <= 2


def test_the_profile_of_the_test_above_would_change_the_colours():
    """A PNG's or JPEG's header says nothing of what Pillow would do with it; LittleCMS applies it."""
    swap = ImageCms.ImageCmsProfile(io.BytesIO(swapping_profile()))
    applied = ImageCms.profileToProfile(photo(), swap, ImageCms.createProfile("sRGB"))
    assert np.abs(np.asarray(applied).astype(int) - np.asarray(photo())).mean() > 20


@pytest.mark.parametrize("content", [b"", b"not an image", struct.pack("<IIII", 1, 2, 3, 4)])
def test_what_is_no_image_is_an_error_with_its_name(call, content):
    script = """
    const file = new File([bytes(args[0])], "notes.txt");
    return d.decode(file, 1e6).then(() => "decoded", (error) => error.message);
    """
    assert call(script, encoded(content)) == "notes.txt is not an image that this browser reads."


def test_a_photo_of_more_pixels_than_classify_reads_is_shrunk_to_them(call):
    script = """return d.decode(new Blob([bytes(args[0])]), 1000)
        .then(({ width, height, data, full }) => [width, height, data.length, full]);"""
    width, height, length, full = call(script, encoded(saved("PNG")))
    assert (length, full) == (4 * width * height, 301 * 203)
    assert 900 < width * height <= 1000
    assert width / height == pytest.approx(301 / 203, rel=0.05)


def test_a_photo_of_too_many_pixels_to_shrink_is_refused(call):
    script = "try { return d.read(null, 20000, 20000, 1000); } catch (error) { return error.message; }"
    assert call(script).startswith("20000 x 20000 pixels are too many")
