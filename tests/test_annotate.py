"""Annotated copies: their names, what is drawn, and that no other file is replaced."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from alexnet_infer import annotate
from alexnet_infer.annotate import LONGEST_SIDE, MARK, MOST_LABELS, Annotator, draw, held, plan
from alexnet_infer.errors import UsageError
from alexnet_infer.manifest import ClassName
from alexnet_infer.photos import Photo, named
from alexnet_infer.predict import Label, Result
from alexnet_infer.preprocess import Rescaling
from alexnet_infer.seen import Seen

SQUARE, STRETCHED = (Seen(stretched=stretched, start=0, end=1) for stretched in (False, True))
PATCH = Seen(stretched=False, start=0.125, end=0.875)
CLASSES = (ClassName(wnid="n1", name="a cat, Felis"), ClassName(wnid="n2", name="\U00010600"))
PANEL = (0x18, 0x18, 0x1B)


def photos(*names: str) -> list[Photo]:
    return [named(name) for name in names]


def names(*inputs: str, folder: Path = Path("out")) -> list[str]:
    return [path.name for path in plan(photos(*inputs), folder)]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(60, 256, (height, width, 3), np.uint8))


# Names.


def test_copies_are_named_after_the_photos():
    assert names("a/cat.jpg", "dog.JPEG", "x.png", "y.PNG") == ["cat.jpg", "dog.JPEG", "x.png", "y.PNG"]
    assert names("scan.tif", "b.webp", "none", "two.dots.bmp") == ["scan.png", "b.png", "none.png", "two.dots.png"]


def test_photos_of_one_name_get_numbers_and_no_two_copies_are_one_file():
    found = names("a/1.jpg", "b/1.jpg", "c/1.JPG", "d/1.tif", "e/1.png", "f/1-2.jpg", "g/1.jpg")
    assert found == ["1.jpg", "1-2.jpg", "1-3.JPG", "1.png", "1-2.png", "1-2-2.jpg", "1-4.jpg"]
    assert len({name.lower() for name in found}) == 7
    assert len({*names("a/\u00e9.jpg", "b/e\u0301.jpg")}) == 2


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.org/a/photo.jpg?size=1&token=secret", "photo.jpg"),
        ("https://user:password@example.org/", "example.org.png"),
        ("http://127.0.0.1/", "127.0.0.1.png"),
        ("http://h/\u732b.jpg", "photo.jpg"),
        ("http://h/.jpg", "photo.jpg"),
        ("http://h/v1.2", "v1.png"),
        ("https://example.org/%2e%2e%2fx/..%5cy", "5cy.png"),
        ("https://example.org/\x1b[31m.png", "31m.png"),
        ("http://[", "photo.png"),
    ],
)
def test_a_url_gets_a_safe_name_without_password_or_query(url, name):
    (found,) = names(url)
    assert found == name
    assert not {*found} & {*"/\\%\x1b:?"}
    assert "secret" not in found
    assert "password" not in found


def test_standard_input_has_a_name_and_long_names_are_cut():
    assert plan([Photo(name="-")], Path("out")) == [Path("out/standard-input.png")]
    (name,) = names("\u732b" * 85 + ".jpg")
    assert name.endswith("\u732b.jpg")
    assert len(os.fsencode(name)) < 220


def test_many_photos_of_one_name_are_planned_in_time_that_grows_with_their_number(monkeypatch):
    """Each name is looked up a bounded number of times."""
    looked_up = []
    key = annotate._key
    monkeypatch.setattr(annotate, "_key", lambda name: looked_up.append(name) or key(name))
    assert len({*names(*[f"{i}/x.jpg" for i in range(2_000)])}) == 2_000
    assert len(looked_up) <= 3 * 2_000


# Files that are there.


@pytest.mark.parametrize("link", [False, True])
def test_a_folder_with_one_of_the_photos_is_refused(tmp_path, link):
    source, out = tmp_path / "photos", tmp_path / "out"
    source.mkdir()
    picture(8, 8).save(source / "a.jpg")
    if link:
        out.symlink_to(source)
    else:
        out = source / ".." / "photos"
    with pytest.raises(UsageError, match=r"has the photo .*a\.jpg in it; expected another folder"):
        plan([named(source / "a.jpg")], out)


def test_a_folder_with_the_file_that_a_link_leads_to_is_refused(tmp_path):
    picture(8, 8).save(tmp_path / "a.jpg")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "b.jpg").symlink_to(tmp_path / "a.jpg")
    with pytest.raises(UsageError, match=r"has the photo .*b\.jpg in it"):
        plan([named(tmp_path / "links" / "b.jpg")], tmp_path)


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "folder"])
def test_what_alexnet_infer_did_not_write_is_never_replaced(tmp_path, kind):
    target, other = tmp_path / "a.jpg", tmp_path / "other.jpg"
    if kind == "file":
        picture(8, 8).save(target)
    elif kind == "folder":
        target.mkdir()
    else:
        if kind == "link":
            other.write_bytes(MARK)
        target.symlink_to(other)
    with pytest.raises(UsageError, match=r"a\.jpg: exists, and alexnet-infer didn't write it"):
        plan(photos("elsewhere/a.jpg"), tmp_path)
    assert plan(photos("elsewhere/b.jpg"), tmp_path)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    for folder in (tmp_path / "out", tmp_path / ("x" * 300)):
        with pytest.raises(UsageError, match=r"^--annotate .*(expected a folder|can't be written)"):
            plan(photos("a.jpg"), folder)


def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_classified(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"^--annotate .*file/out: can't be written"):
        plan(photos("a.jpg"), tmp_path / "file" / "out")

    def refuse(dir):
        assert dir == tmp_path
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(annotate, "TemporaryFile", refuse)
    for folder in (tmp_path, tmp_path / "new" / "newer"):
        with pytest.raises(UsageError, match=r"can't be written \(Permission denied\); name another folder"):
            plan(photos("a.jpg"), folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# The picture.


def drawn(size: tuple[int, int], labels=(("cat", 0.75), ("dog", 0.25)), **options) -> tuple[np.ndarray, np.ndarray]:
    photo = picture(*size)
    copy = draw(photo, labels, **({"footer": "net", "seen": SQUARE} | options))
    return np.asarray(photo), np.asarray(copy)


@pytest.mark.parametrize("size", [(700, 700), (500, 500)])
def test_nothing_of_a_square_photo_is_changed_and_the_panel_is_below_it(size):
    photo, copy = drawn(size)
    height, width, _ = photo.shape
    assert np.array_equal(copy[:height], photo)
    panel = copy[height:]
    assert panel.shape[1] == width
    assert np.all(panel[0] == PANEL)
    assert (panel != PANEL).any()


@pytest.mark.parametrize("size", [(904, 504), (600, 904), (600, 600)])
@pytest.mark.parametrize(("seen", "share"), [(SQUARE, 1), (PATCH, 0.75)], ids=["square", "patch"])
def test_the_frame_is_around_what_is_seen_and_the_rest_is_the_photo(size, seen, share):
    photo, copy = drawn(size, seen=seen)
    height, width, _ = photo.shape
    side, changed = round(share * min(size)), (copy[:height] != photo).any(2)
    if side == width == height:
        assert not changed.any()
        return
    ys, xs = np.nonzero(changed)
    left, top = (width - side) // 2, (height - side) // 2
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (left, left + side - 1, top, top + side - 1)
    assert not changed[top + 6 : top + side - 6, left + 6 : left + side - 6].any()
    assert np.array_equal(drawn(size, seen=None)[1][:height], photo)


@pytest.mark.parametrize("size", [(4096, 1024), (1500, 3000)])
def test_a_large_photo_is_shrunk_in_proportion(size):
    _, copy = drawn(size, seen=None)
    scale = LONGEST_SIDE / max(size)
    panel_top = np.flatnonzero((copy == PANEL).all((1, 2)))[0]
    photo_columns = (copy[:panel_top] != PANEL).any(2).any(0).sum()
    assert (photo_columns, panel_top) == (round(size[0] * scale), round(size[1] * scale))


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (1, 3000), (3000, 1), (20, 2048)])
def test_photos_of_extreme_shapes_get_a_panel_that_can_be_read(size):
    _, copy = drawn(size)
    assert copy.shape[1] >= 24 * 14
    assert copy.shape[0] > 3 * 14


def test_the_length_of_a_bar_is_the_probability():
    _, copy = drawn((800, 800), labels=(("a", 0.5), ("b", 0.2)))
    track = (copy[800:] == (0x3F, 0x3F, 0x46)).all(2).sum(1)
    for colour, probability in (((0xFB, 0x92, 0x3C), 0.5), ((0xA1, 0xA1, 0xAA), 0.2)):
        bar = (copy[800:] == colour).all(2).sum(1)
        rows = np.flatnonzero(bar > 20)
        assert len(rows) >= 5
        assert bar[rows] / (bar + track)[rows] == pytest.approx(probability, abs=0.01)


def test_the_labels_and_their_probabilities_are_drawn_in_order(monkeypatch):
    texts = []
    text = ImageDraw.ImageDraw.text

    def spy(self, place, words, *args, **options):
        texts.append((place[1], words))
        return text(self, place, words, *args, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", spy)
    drawn((500, 400), labels=[(f"name {i}", 0.5 / (i + 1)) for i in range(MOST_LABELS + 5)], footer="the net")
    words = [words for _, words in sorted(texts, key=lambda item: item[0])]
    for i in range(MOST_LABELS):
        assert {f"name {i}", f"{0.5 / (i + 1):.1%}"} == {*words[2 * i : 2 * i + 2]}
    assert words[2 * MOST_LABELS :] == ["the net", "The net sees the part in the frame."]


# Writing.


def annotator(seen: Seen | None = SQUARE) -> Annotator:
    return Annotator(classes=CLASSES, sizes=[64], seen=seen, footer="net")


def result(photo: Photo, index: int = 0, error: str | None = None) -> Result:
    label = Label(index=index, wnid=CLASSES[index].wnid, name=CLASSES[index].name, probability=0.5)
    return Result(photo=photo, labels=() if error else (label,), error=error)


def test_a_copy_is_turned_and_has_the_mark_but_no_other_metadata(tmp_path):
    exif = Image.Exif()
    exif[0x112], exif[0x10F] = 6, "a camera"
    source = tmp_path / "a.jpg"
    picture(60, 40).save(source, exif=exif)
    paths = [tmp_path / "out" / name for name in ("a.jpg", "b.png")]
    (first, second) = annotator().annotate([result(named(source))] * 2, paths)
    assert (first.copy, second.copy, first.error) == (*paths, None)
    for path, kind in zip(paths, ("JPEG", "PNG"), strict=True):
        assert MARK in path.read_bytes()[:1024]
        with Image.open(path) as image:
            assert image.format == kind
            assert not image.getexif()
            corner = image.convert("RGB").crop(((image.width - 40) // 2, 0, (image.width + 40) // 2, 60))
        with Image.open(source) as original:
            upright = original.convert("RGB").transpose(Image.Transpose.ROTATE_270)
        inside = np.s_[14:46, 4:36]  # of the frame
        difference = np.abs(np.asarray(corner).astype(int)[inside] - np.asarray(upright)[inside])
        assert difference.mean() < (20 if kind == "JPEG" else 0.01)
    assert plan([named(source)], tmp_path / "out") == paths[:1]  # may be replaced


def test_a_net_that_stretches_the_photo_sees_all_of_it_and_there_is_no_frame(tmp_path):
    picture(90, 40).save(tmp_path / "a.png")
    for name, seen in (("crop", SQUARE), ("stretch", STRETCHED), ("both", None)):
        out = tmp_path / name / "a.png"
        [*annotator(seen).annotate([result(named(tmp_path / "a.png"))], [out])]
        with Image.open(out) as copy, Image.open(tmp_path / "a.png") as photo:
            left = (copy.width - 90) // 2
            same = np.array_equal(np.asarray(copy)[:40, left : left + 90], np.asarray(photo))
        assert same == (seen is not SQUARE)


def test_results_keep_their_order_and_a_photo_that_failed_has_no_copy(tmp_path):
    picture(40, 40).save(tmp_path / "a.png")
    good, gone = named(tmp_path / "a.png"), named(tmp_path / "gone.png")
    results = [result(gone, error="gone.png: No such file"), *[result(good)] * 30, result(gone)]
    paths = [tmp_path / "out" / f"{i}.png" for i in range(32)]
    done = [*annotator().annotate(results, paths)]
    assert [item.result for item in done] == results
    assert [item.copy for item in done] == [None, *paths[1:31], None]
    assert [item.error is None for item in done] == [True] * 31 + [False]
    assert "gone.png" in done[-1].error
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in paths[1:31])


def test_a_name_that_cannot_be_drawn_is_replaced_by_the_wordnet_id_and_counted(tmp_path, monkeypatch):
    picture(40, 40).save(tmp_path / "a.png")
    shown = []
    monkeypatch.setattr(annotate, "draw", lambda photo, labels, **_: shown.append(labels) or photo)
    results = [result(named(tmp_path / "a.png"), index) for index in (0, 1)]
    done = [*annotator().annotate(results, [tmp_path / "out" / f"{i}.png" for i in range(2)])]
    assert sorted(shown) == [[("a cat", 0.5)], [("n2", 0.5)]]
    assert [item.replaced_names for item in done] == [False, True]


def test_a_copy_that_cannot_be_written_is_a_usage_error(tmp_path):
    picture(40, 40).save(tmp_path / "a.png")
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match=r"out.a\.png: can't be written \(.*\); name another --annotate DIR$"):
        [*annotator().annotate([result(named(tmp_path / "a.png"))], [tmp_path / "out" / "a.png"])]


# What can be read only once.


def test_standard_input_is_read_once_and_decoded_twice(monkeypatch):
    file = io.BytesIO()
    picture(30, 20).save(file, "PNG")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(file.getvalue())))
    (photo,) = held([Photo(name="-")])
    for _ in range(2):
        assert photo.square(Rescaling(size=64)).shape == (64, 64, 3)


def test_a_missing_standard_input_and_photos_with_a_problem_stay_problems(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    missing, problem, path = held([Photo(name="-"), Photo(name="x", problem="no"), named("a.jpg")])
    assert "no image on standard input" in missing.problem
    assert problem == Photo(name="x", problem="no")
    assert path == named("a.jpg")
