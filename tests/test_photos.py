"""Inputs give the right photos in the right order, and a photo that can't be read raises its error when it is read.

How images are decoded is tested in test_decode.py, how URLs are fetched in test_web.py.
"""

from __future__ import annotations

import glob
import inspect
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from alexnet_infer import decode, photos
from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.photos import IMAGE_SUFFIXES, OTHER_PICTURE_SUFFIXES, Photo, expand
from alexnet_infer.preprocess import Preprocessing, Rescaling, central_square
from tests.published.conftest import _alone  # noqa: F401 (no proxies)
from tests.published.server import Server

SIZE = 16
PREPROCESSING = Preprocessing(size=SIZE, patch=SIZE, mean=np.zeros(3))
not_as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")


def gradient(width: int, height: int) -> Image.Image:
    """Red grows from left to right, green from top to bottom; blue is constant."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([red, green, np.full_like(red, 77)], 2).astype(np.uint8))


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Callable[..., Path]:
    """Make files in a new directory and change to it. Files with the suffix of an image hold an image."""

    def make(*names: str) -> Path:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix.lower() in (".png", ".jpg"):
                gradient(8, 8).save(path, "PNG")
            else:
                path.write_text("no image")
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return make


def names(*inputs: str) -> list[str]:
    photos = list(expand(inputs))
    assert all(photo.problem is None for photo in photos)
    return [photo.name.replace(os.sep, "/") for photo in photos]


def refusal(*inputs: str) -> str:
    """Return the one-line message with which the only photo of `inputs` is refused."""
    (photo,) = expand(inputs)
    with pytest.raises(UnreadableInputError) as caught:
        photo.square(PREPROCESSING.rescaling)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(f"{photo.printable_name}: ")
    return message


# Files


def test_files_keep_their_order_and_repetitions_whatever_their_suffix(tree):
    tree("b.jpg", "a.png", "notes.txt")
    assert names("b.jpg", "notes.txt", "a.png", "./b.jpg") == ["b.jpg", "notes.txt", "a.png", "./b.jpg"]


def test_a_photo_is_read_only_when_its_square_is_requested(tree):
    folder = tree("a.png", "b.png")
    photos = list(expand(["a.png", "b.png"]))
    (folder / "a.png").unlink()
    with pytest.raises(UnreadableInputError, match=r"^a\.png: can't be read \(No such file or directory\)$"):
        photos[0].square(PREPROCESSING.rescaling)
    assert photos[1].square(PREPROCESSING.rescaling).shape == (SIZE, SIZE, 3)


def test_a_file_whose_name_is_also_a_pattern_is_that_file(tree):
    tree("a[1].jpg", "a1.jpg", "what?.png", "*.jpg")
    assert names("a[1].jpg", "what?.png", "*.jpg") == ["a[1].jpg", "what?.png", "*.jpg"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("absent.jpg", "No such file"),
        ("", "an empty name"),
        ("notes.txt", "not an image"),
        ("notes.txt/photo.jpg", "Not a directory"),
        ("nul\0.jpg", "null"),
        ("x" * 5000, "too long"),
        ("two\nlines.jpg", r"two\nlines.jpg: can't be read"),
        ("\x1b[31mred.jpg", r"\x1b[31mred.jpg: no such file"),
        ("caf\udce9.jpg", r"caf\udce9.jpg: can't be read"),
        ("\ud800.jpg", r"\ud800.jpg: "),
    ],
    ids=ascii,
)
def test_an_input_that_is_not_a_file_gives_one_photo_with_the_reason(tree, given, expected):
    tree("notes.txt")
    assert expected in refusal(given)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode here")
@pytest.mark.parametrize("name", [b"caf\xe9.png", b"two\nlines.png", b"\x1b[31mred.png", "雪.png".encode()])
def test_a_photo_with_any_name_is_read_and_its_name_can_be_printed(tree, name):
    folder = tree()
    gradient(8, 8).save(folder / os.fsdecode(name))
    for argument in (os.fsdecode(name), ".", "*.png"):
        (photo,) = expand([argument])
        assert photo.square(PREPROCESSING.rescaling).shape == (SIZE, SIZE, 3)
        assert os.fsencode(photo.name) == name
        assert photo.printable_name.isprintable()
        photo.printable_name.encode()


def test_a_link_is_followed_to_its_file_and_a_broken_one_is_refused(tree):
    folder = tree("a.png")
    (folder / "link").symlink_to("a.png")
    (folder / "broken[1].jpg").symlink_to("absent")
    (photo,) = expand(["link"])
    assert photo.square(PREPROCESSING.rescaling).shape == (SIZE, SIZE, 3)
    assert "No such file" in refusal("broken[1].jpg")


@not_as_root
def test_a_file_without_permission_is_refused(tree):
    (tree("closed.png") / "closed.png").chmod(0)
    assert "Permission denied" in refusal("closed.png")


# Directories


def test_a_directory_gives_its_images_at_every_depth_sorted_without_hidden_ones(tree):
    tree(
        *("trip/b.jpg", "trip/a/2.png", "trip/a/10.png", "trip/c/d/e/f.JPG", "trip/Z.png"),
        *("trip/notes.txt", "trip/.hidden.jpg", "trip/.cache/x.jpg", "trip/a/.x/y.jpg", "trip/noext", "other.jpg"),
    )
    expected = ["trip/Z.png", "trip/a/10.png", "trip/a/2.png", "trip/b.jpg", "trip/c/d/e/f.JPG"]
    assert names("trip") == expected
    assert names("trip/") == expected
    assert names("trip/a", "other.jpg", "trip/a") == [*expected[1:3], "other.jpg", *expected[1:3]]


def test_a_hidden_directory_that_is_named_directly_is_searched(tree):
    tree(".cache/x.jpg")
    assert names(".cache") == [".cache/x.jpg"]


def test_every_suffix_is_found_in_either_case(tree):
    folder = tree()
    for suffix in IMAGE_SUFFIXES + OTHER_PICTURE_SUFFIXES:
        (folder / f"a{suffix}").touch()
        (folder / f"b{suffix.upper()}").touch()
    assert len(names(".")) == 2 * len(IMAGE_SUFFIXES + OTHER_PICTURE_SUFFIXES)
    assert not set(IMAGE_SUFFIXES) & set(OTHER_PICTURE_SUFFIXES)


def test_pictures_of_other_formats_in_a_directory_are_named_and_videos_and_texts_are_passed_over(tree):
    folder = tree("trip/a.jpg", "trip/notes.txt", "trip/film.MOV", "trip/film.mp4", "trip/Thumbs.db", "trip/.x.heic")
    (folder / "trip/b.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))
    assert names("trip") == ["trip/a.jpg", "trip/b.HEIC"]
    good, bad = expand(["trip"])
    assert good.square(PREPROCESSING.rescaling).shape == (SIZE, SIZE, 3)
    with pytest.raises(
        UnreadableInputError,
        match=r"^trip/b\.HEIC: HEIC, which isn't read; convert it to JPEG first",
    ):
        bad.square(PREPROCESSING.rescaling)
    (folder / "trip/a.jpg").unlink()
    assert names("trip") == ["trip/b.HEIC"]


def test_a_picture_with_another_formats_suffix_is_read_by_its_content(tree):
    gradient(8, 8).save(tree("trip/notes.txt") / "trip/a.heic", "PNG")
    (photo,) = expand(["trip"])
    assert photo.square(PREPROCESSING.rescaling).shape == (SIZE, SIZE, 3)


SAVED = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".jif": "JPEG",
    ".mpo": "MPO",
    ".png": "PNG",
    ".apng": "PNG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".pbm": "PPM",
    ".pnm": "PPM",
    ".avif": "AVIF",
    ".jp2": "JPEG2000",
    ".j2k": "JPEG2000",
    ".jpx": "JPEG2000",
    ".jpf": "JPEG2000",
    ".j2c": "JPEG2000",
}


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_an_image_of_every_suffix_is_read(tree, suffix):
    if SAVED[suffix] not in decode.FORMATS and suffix != ".mpo":
        pytest.skip(f"this Pillow has no {SAVED[suffix]}")
    mode = {".pgm": "L", ".pbm": "1"}.get(suffix, "RGB")
    gradient(8, 8).convert(mode).save(tree("x/y") / f"x/a{suffix}", SAVED[suffix])
    (photo,) = expand(["x"])
    assert photo.square(PREPROCESSING.rescaling).shape == (SIZE, SIZE, 3)


def test_a_directory_with_brackets_in_its_name_is_a_directory(tree):
    tree("trip [2024]/a.jpg")
    assert names("trip [2024]") == ["trip [2024]/a.jpg"]


def test_a_directory_with_the_name_of_an_image_is_searched_and_not_read(tree):
    tree("photos/album.jpg/a.png")
    assert names("photos") == ["photos/album.jpg/a.png"]


def test_symbolic_link_loops_end(tree):
    folder = tree("trip/a.jpg")
    (folder / "trip" / "again").symlink_to(folder / "trip", target_is_directory=True)
    assert names("trip") == ["trip/a.jpg"]


def test_a_directory_without_images_is_refused_with_what_was_expected(tree):
    tree("empty/notes.txt")
    message = refusal("empty")
    assert message.startswith("empty: no images in this directory")
    assert all(suffix in message for suffix in IMAGE_SUFFIXES)


@not_as_root
def test_a_directory_without_permission_is_refused_and_its_neighbours_are_read(tree):
    folder = tree("trip/a.jpg", "trip/closed/b.jpg")
    (folder / "trip/closed").chmod(0)
    try:
        read, closed = expand(["trip"])
        assert read.square(PREPROCESSING.rescaling).shape == (SIZE, SIZE, 3)
        with pytest.raises(UnreadableInputError, match=r"^trip/closed: .*Permission denied"):
            closed.square(PREPROCESSING.rescaling)
    finally:
        (folder / "trip/closed").chmod(0o700)


def test_a_directory_that_fails_is_refused_and_its_neighbours_are_read(tree, monkeypatch):
    tree("trip/a.jpg", "trip/closed/b.jpg", "trip/z.jpg")
    scan = os.scandir

    def failing(path="."):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", failing)
    photos = list(expand(["trip"]))
    assert [photo.name for photo in photos if photo.problem is None] == ["trip/a.jpg", "trip/z.jpg"]
    (closed,) = (photo for photo in photos if photo.problem is not None)
    with pytest.raises(UnreadableInputError, match=r"^trip/closed: the directory can't be read \(Permission denied\)"):
        closed.square(PREPROCESSING.rescaling)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_fifo_among_the_images_is_refused(tree):
    os.mkfifo(tree() / "pipe.jpg")
    assert "a pipe or device" in refusal(".")  # test_decode.py tests in a process that this does not wait


# Patterns


def test_a_pattern_gives_the_files_it_matches_sorted(tree):
    folder = tree("b.jpg", "a.jpg", "c.png", ".d.jpg", "sub/e.jpg", "sub/deep/f.jpg", "g.jpg/h.txt")
    assert names("*.jpg") == ["a.jpg", "b.jpg"]
    assert names("?.png", "[ab].jpg") == ["c.png", "a.jpg", "b.jpg"]
    assert names("sub/*") == ["sub/e.jpg"]
    assert names("**/*.jpg") == ["a.jpg", "b.jpg", "sub/deep/f.jpg", "sub/e.jpg"]
    assert names(f"{folder}/[b]*") == [f"{folder.as_posix()}/b.jpg"]


@pytest.mark.parametrize(
    "pattern",
    [
        *("*", "*/*", "**", "**/*", "**/*.jpg", "./**/*.jpg", "sub/**", "sub/**/deep/*", "*/../*.jpg", "sub//*"),
        *("**/**/*.jpg", "**/sub/**/*.jpg", ".*", "**/.*", ".h/*", ".h/**", "*/", "sub/*/", "su[b]/deep/f.jpg"),
        *("s?b/[!a]*", "[[]x]/*"),
    ],
)  # fmt: skip
def test_patterns_match_what_glob_matches_if_there_are_no_links(tree, pattern):
    folder = tree("a.jpg", "sub/e.jpg", "sub/deep/f.jpg", "sub/deep/.g.jpg", ".h/i.jpg", ".j.jpg", "[x]/k.jpg", "n.txt")
    for start in ("", f"{folder.as_posix()}/"):
        matched = glob.glob(start + pattern, recursive=True)  # noqa: PTH207 (the oracle)
        files = sorted({os.path.normpath(path) for path in matched if Path(path).is_file()})
        found = [photo.name for photo in expand([start + pattern]) if photo.problem is None]
        assert sorted(map(os.path.normpath, found)) == files
        assert len({*found}) == len(found)


def test_a_link_to_a_directory_gives_no_photo_twice(tree):
    folder = tree("trip/a.jpg", "trip/sub/b.jpg")
    for link, target in (("trip/up", ".."), ("trip/sub/again", "../sub"), ("trip/self", "self"), ("trip/aub", "sub")):
        (folder / link).symlink_to(target, target_is_directory=True)
    for pattern in ("**/*.jpg", "**/**/*.jpg", "trip/**/*.*", f"{folder.as_posix()}/**/*.jpg"):
        assert [Path(name).name for name in names(pattern)] == ["a.jpg", "b.jpg"]
    assert names("trip/*/*.jpg") == ["trip/sub/b.jpg"]  # and not trip/aub/b.jpg
    assert names("trip/up/*/a.jpg", "trip/aub/*") == ["trip/up/trip/a.jpg", "trip/aub/b.jpg"]


def test_two_stars_follow_links_to_directories_elsewhere_each_once_and_end(tree, monkeypatch):
    home = tree("home/a.jpg", "home/trip/b.jpg", "other/c.jpg", "other/deep/d.jpg") / "home"
    monkeypatch.chdir(home)
    links = {"trip/old": "../../other", "trip/older": "../../other/deep", "trip/up": "..", "self": ".", "loop": "loop"}
    for link, target in (links | {"../other/back": home}).items():
        Path(link).symlink_to(target, target_is_directory=True)
    for pattern in ("**/*.jpg", "**/**/*.jpg", "./**/*.jpg", "self/**/*.jpg"):
        assert sorted(Path(name).name for name in names(pattern)) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert names("trip/**/c.jpg") == ["trip/old/c.jpg"]
    assert not {"a.jpg", "absent.jpg"} & {Path(name).name for name in names("trip/**/*.jpg")}  # trip/up leads above
    assert [Path(name).name for name in names(".")] == ["a.jpg", "b.jpg"]  # a directory, not a pattern


def test_directories_deeper_than_pythons_stack_are_searched(tree, nested):
    tree("trip/a.jpg")
    bottom = nested("trip", 300)
    Path(f"{bottom}/b.jpg").touch()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 150)  # its usual 1000 would need more folders, which takes seconds
    try:
        for text in ("trip", "trip/**/*.jpg"):
            assert names(text) == ["trip/a.jpg", f"{bottom}/b.jpg"]
    finally:
        sys.setrecursionlimit(limit)


def test_directories_whose_path_is_too_long_for_the_system_are_refused(tree, nested):
    tree("trip/a.jpg")
    nested("trip", 30, "d" * 200)
    for text in ("trip", "trip/**/*.jpg", "trip/**/**/*.jpg"):
        good, bad = expand([text])
        assert good.name == "trip/a.jpg"
        assert bad.problem == "the directory can't be read (File name too long)"


def test_a_pattern_that_matches_nothing_is_refused(tree):
    tree("a.jpg", "sub/b.jpg")
    for pattern in ("*.gif", "sub?", "absent/*.jpg", "[", "**/*.bmp", "*\0"):
        assert "no file matches it as a pattern" in refusal(pattern)


def test_bad_inputs_do_not_stop_the_good_ones(tree):
    tree("a.jpg", "empty/notes.txt")
    photos = list(expand(["absent", "a.jpg", "*.gif", "empty", "a.jpg"]))
    read = []
    for photo in photos:
        try:
            photo.square(PREPROCESSING.rescaling)
            read.append(True)
        except UnreadableInputError:
            read.append(False)
    assert read == [False, True, False, False, True]


# Standard input


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def standard_input(monkeypatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_a_dash_is_an_image_on_standard_input(monkeypatch, tree):
    tree("-", "./a.jpg")  # not the file of that name
    image = gradient(40, 30)
    standard_input(monkeypatch, encoded(image))
    (photo,) = expand(["-"])
    assert (photo.name, photo.printable_name) == ("-", "-")
    assert (photo.square(PREPROCESSING.rescaling) == central_square(image, SIZE)).all()


def test_standard_input_can_be_read_once_and_must_be_an_image(monkeypatch):
    standard_input(monkeypatch, encoded(gradient(8, 8)))
    first, second = expand(["-", "-"])
    assert first.square(PREPROCESSING.rescaling).shape == (SIZE, SIZE, 3)
    with pytest.raises(UnreadableInputError, match=r"^-: empty"):
        second.square(PREPROCESSING.rescaling)
    standard_input(monkeypatch, b"no image")
    assert refusal("-").startswith("-: not an image")


@pytest.mark.parametrize("stdin", [None, SimpleNamespace(isatty=lambda: True)], ids=["closed", "a terminal"])
def test_a_terminal_or_closed_standard_input_is_refused_without_waiting(monkeypatch, stdin):
    monkeypatch.setattr(sys, "stdin", stdin)
    assert "no image on standard input" in refusal("-")


# URLs


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(b"")
    yield server
    server.close()


def test_a_url_is_fetched_when_the_photo_is_read_and_not_before(server):
    image = gradient(40, 30)
    server.content = encoded(image)
    (photo,) = expand([server.url])
    assert not server.requests
    assert (photo.square(PREPROCESSING.rescaling) == central_square(image, SIZE)).all()
    assert len(server.requests) == 1


def test_several_squares_need_one_request(server):
    image = gradient(40, 30)
    server.content = encoded(image)
    rescalings = [Rescaling(size=SIZE), Rescaling(size=SIZE + 3, resample="nearest")]
    squares = photos.named(server.url).squares(rescalings)
    assert len(server.requests) == 1
    for rescaling in rescalings:
        assert (squares[rescaling] == central_square(image, rescaling.size, rescaling.resample)).all()


def test_urls_keep_their_place_among_files_and_are_not_patterns(tree):
    tree("a.jpg", "http:/example.org/b.jpg")
    arguments = ["http://example.org/b.jpg?[x]*", "a.jpg", "HTTPS://example.org/", "*.jpg"]
    assert names(*arguments) == [*arguments[:3], "a.jpg"]


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b"no", {"status": 404}, "can't be fetched (HTTP 404 Not Found)"),
        (b"<html></html>", {"Content_Type": "text/html"}, "can't be fetched (a web page, text/html; expected"),
        (b"", {"status": 302, "Location": "file:///etc/hostname"}, "can't be fetched (HTTP 302 Found - Redirection to"),
        (b"just text", {}, "not an image"),
        (b"", {}, "empty (0 bytes)"),
        (b"x" * 1001, {}, "can't be fetched (larger than the limit of 1,000 bytes)"),
    ],
    ids=["404", "html", "file", "text", "empty", "large"],
)
def test_a_url_without_an_image_is_refused(server, monkeypatch, body, headers, expected):
    monkeypatch.setattr(photos, "MAX_URL_BYTES", 1000)
    server.script = [server.says(body, **headers)]
    assert refusal(server.url).startswith(f"{server.url}: {expected}")


def test_a_url_is_printed_without_its_password_and_harmless_to_a_terminal(server):
    server.content = encoded(gradient(8, 8))
    server.script = [server.says(b"", 401)]
    url = server.url.replace("//", "//me:secret@") + "?a=1&b=\x1b[31m"
    (photo,) = expand([url])
    assert photo.name == url.replace("secret", "***")
    assert "secret" not in repr(photo)
    assert (
        refusal(url)
        == f"{server.url.replace('//', '//me:***@')}?a=1&b=\\x1b[31m: can't be fetched (HTTP 401 Unauthorized)"
    )
    assert photo.square(PREPROCESSING.rescaling).shape == (SIZE, SIZE, 3)  # the password was sent


# Squares


@pytest.mark.parametrize("resample", ["bicubic", "nearest"])
@pytest.mark.parametrize("shape", [(40, 30), (31, 57), (16, 16), (9, 7)])
def test_a_square_is_made_from_the_decoded_image_with_the_filter_of_the_net(tmp_path, shape, resample):
    image = gradient(*shape)
    image.save(tmp_path / "photo.png")
    preprocessing = Preprocessing(size=SIZE, patch=SIZE, mean=np.zeros(3), resample=resample)
    square = Photo(name="photo", path=tmp_path / "photo.png").square(preprocessing.rescaling)
    assert square.dtype == np.uint8
    assert (square == central_square(image, SIZE, resample)).all()


def test_a_photo_is_rotated_before_it_is_cropped(tmp_path):
    upright = gradient(60, 40)
    exif = Image.Exif()
    exif[274] = 8
    upright.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "photo.png", exif=exif)
    square = Photo(name="photo", path=tmp_path / "photo.png").square(PREPROCESSING.rescaling)
    assert (square == central_square(upright, SIZE)).all()


def test_a_jpeg_beyond_the_limit_is_shrunk_as_far_as_the_nets_size_allows(tmp_path, monkeypatch):
    image = gradient(100, 80)
    image.save(tmp_path / "photo.jpg", quality=95)
    monkeypatch.setattr(decode, "MAX_PIXELS", 50 * 40)
    photo = Photo(name="photo", path=tmp_path / "photo.jpg")
    np.testing.assert_allclose(photo.square(PREPROCESSING.rescaling), central_square(image, SIZE), atol=5)
    with pytest.raises(UnreadableInputError, match="100 x 80 pixels"):
        photo.square(Rescaling(size=21))  # 2 x 21 are more than half of 80


def test_one_pixel_fills_the_square(tmp_path):
    Image.new("RGB", (1, 1), (12, 34, 56)).save(tmp_path / "photo.png")
    square = Photo(name="photo", path=tmp_path / "photo.png").square(PREPROCESSING.rescaling)
    assert (square == (12, 34, 56)).all()


def weights(side: int, after: int, size: int) -> np.ndarray:
    """Return float64 [size, side]: the antialiased bicubic filter (Keys, a = -0.5) from `side` pixels to `after`.

    Only the `size` pixels in the middle are computed.
    """
    step = side / after
    centres = (np.arange(size) + (after - size) // 2 + 0.5) * step
    x = np.abs(np.arange(side) + 0.5 - centres[:, None]) / max(step, 1)
    kernel = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))
    return kernel / kernel.sum(1, keepdims=True)


@pytest.mark.parametrize("shape", [(20, 60_000), (60_000, 20), (3, 9_001), (300, 200), (201, 300)])
def test_squares_match_the_filters_formula_even_for_long_strips(tmp_path, shape):
    width, height = shape
    pixels = np.random.default_rng(3).integers(40, 216, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png", compress_level=1)
    square = Photo(name="photo", path=tmp_path / "photo.png").square(PREPROCESSING.rescaling)
    rows, columns = (weights(side, round(side * SIZE / min(shape)), SIZE) for side in (height, width))
    expected = np.einsum("iy,yxc,jx->ijc", rows, pixels.astype(float), columns, optimize=True)
    # Pillow rounds between its passes, and places the box in float32.
    assert np.abs(square - expected).max() < 1.5
