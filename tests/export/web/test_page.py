"""The page in headless Chromium with onnxruntime-web: labels, switches, keyboard, widths, and what it refuses."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from alexnet_infer.artifact import Artifact, embedded_model, load_artifact
from alexnet_infer.decode import read_square
from alexnet_infer.export.web import site as site_module
from alexnet_infer.export.web.runtime import BINARY, SCRIPT, read_runtime
from alexnet_infer.export.web.site import Site, write_site
from alexnet_infer.manifest import ClassName
from alexnet_infer.nets import load
from alexnet_infer.preprocess import patches
from tests.export.web.conftest import PHOTOS, READY, Open
from tests.export.web.ort import real_package
from tests.export.web.serving import FolderServer
from tests.nets import random_artifact

ort = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")


@pytest.mark.parametrize("number", range(len(PHOTOS)), ids=[path.stem for path in PHOTOS])
def test_probabilities_are_those_of_classify(page, number):
    for views, switch in (("ten", "#ten"), ("center", "#one")):
        page.browser.run(f"document.querySelector('{switch}').checked = true")
        page.example(number)
        labels = load(views=views).classify(PHOTOS[number], top=200)
        expected = np.zeros(200)
        for label in labels:
            expected[label.index] = label.probability
        assert expected.max() > 0.03
        np.testing.assert_allclose(page.probabilities, expected, atol=1e-3)
        assert page.text("#label").startswith(labels[0].name.split(",")[0])
        shown = page.browser.run("[...document.querySelectorAll('#top li')].map((li) => li.textContent)")
        assert shown == [f"{100 * label.probability:.1f} % {label.name.split(',')[0]}" for label in labels[:5]]


@pytest.mark.parametrize(
    ("selector", "feeds"),
    [
        ("#lrn", {"switch.lrn": np.array(False)}),
        ("#columns label:nth-of-type(1) input", {"switch.columns": np.array([0, 1], np.float32)}),
        ("#columns label:nth-of-type(2) input", {"switch.columns": np.array([1, 0], np.float32)}),
    ],
    ids=["LRN", "column 1", "column 2"],
)
def test_a_switch_on_the_page_feeds_the_input_of_the_graph(page, folder, selector, feeds):
    net = load_artifact(embedded_model())
    square = read_square(PHOTOS[2], name="photo", rescaling=net.manifest.preprocessing.rescaling)
    session = ort.InferenceSession(folder / "net.onnx", providers=["CPUExecutionProvider"])
    inputs = {"patches": patches(square, net.manifest.preprocessing, "center"), "switch.lrn": np.array(True)}
    inputs |= {"switch.columns": np.ones(2, np.float32)}
    off, on = (session.run(["probabilities"], {**inputs, **changed})[0][0] for changed in (feeds, {}))
    assert np.abs(off - on).max() > 0.01
    page.browser.run("document.querySelector('#one').checked = true")
    page.example(2)
    np.testing.assert_allclose(page.probabilities, on, atol=1e-3)
    page.switch(selector)
    np.testing.assert_allclose(page.probabilities, off, atol=1e-3)
    page.switch(selector)
    np.testing.assert_allclose(page.probabilities, on, atol=1e-3)


def test_a_column_that_is_off_is_black_and_the_other_is_not(page):
    page.example(2)
    page.switch("#columns label:nth-of-type(1) input")
    script = """Array.from(document.querySelectorAll('[data-layer=conv5] canvas'), (canvas) =>
        Math.max(...canvas.getContext('2d').getImageData(0, 0, 50, 50).data.filter((_, i) => i % 4 < 3)))"""
    first, second = page.browser.run(script)
    assert first == 0 < second


def test_the_ten_votes_are_the_views_of_classify_and_a_vote_shows_its_maps(page):
    page.example(0)
    net = load(views="ten")
    square = read_square(PHOTOS[0], name="photo", rescaling=net.rescaling)
    best = net.backend.infer(net.inputs(square)).argmax(1)
    votes = page.browser.run("[...document.querySelectorAll('#votes .vote span:last-child')].map((e) => e.textContent)")
    assert len(votes) == 10
    for vote, index in zip(votes, best, strict=True):
        assert net.classes[index].short in vote
    before = page.text("[data-layer=conv1] figcaption"), page.text("#square-text")
    page.act("document.querySelectorAll('.vote')[0].click()")
    assert "upper left" in page.text("#square-text")
    assert (page.text("[data-layer=conv1] figcaption"), page.text("#square-text")) != before
    pressed = "[...document.querySelectorAll('.vote')].map((e) => e.getAttribute('aria-pressed'))"
    assert page.browser.run(pressed) == ["true"] + 9 * ["false"]
    page.switch("#one")
    assert page.browser.run("document.getElementById('votes-part').hidden")
    assert "central" in page.text("#square-text")


def test_every_open_layer_has_pictures_and_a_closed_one_is_computed_when_it_is_opened(page):
    page.example(1)
    counts = (
        "Array.from(document.querySelectorAll('.layer'), (e) => [e.dataset.layer, e.querySelectorAll('canvas').length])"
    )
    drawn = dict(page.browser.run(counts))
    assert len(drawn) == 21
    assert {name: count for name, count in drawn.items() if name.endswith(":pre")} == dict.fromkeys(
        ("conv1:pre", "conv2:pre", "conv3:pre", "conv4:pre", "conv5:pre", "fc6:pre", "fc7:pre"), 0
    )
    assert [drawn[name] for name in ("conv1", "norm2", "pool5", "fc6", "probabilities")] == [2, 2, 2, 1, 1]
    page.act("document.querySelector('[data-layer=\"conv1:pre\"] summary').click()")
    assert dict(page.browser.run(counts))["conv1:pre"] == 2


def shown_and_computed(page, folder, layer: str) -> np.ndarray:
    """Show one view of a photo. Return the layer's values for it, computed from the page's net in Python."""
    page.browser.run("document.querySelector('#one').checked = true")
    page.example(2)
    net = load_artifact(embedded_model()).manifest
    square = read_square(PHOTOS[2], name="photo", rescaling=net.preprocessing.rescaling)
    session = ort.InferenceSession(folder / "net.onnx", providers=["CPUExecutionProvider"])
    feeds = {"patches": patches(square, net.preprocessing, "center"), "switch.lrn": np.array(True)}
    return session.run([layer], {**feeds, "switch.columns": np.ones(2, np.float32)})[0]


def test_a_layer_says_its_lowest_and_highest_value(page, folder):
    units = shown_and_computed(page, folder, "fc8")
    words = page.text("[data-layer=fc8] .range").removesuffix(".").split(" ")
    assert words[:2] + words[3:4] == ["Values", "from", "to"]
    assert float(words[2]) == pytest.approx(units.min(), rel=0.006)
    assert float(words[4]) == pytest.approx(units.max(), rel=0.006)
    label = page.browser.run("document.querySelector('[data-layer=fc8] canvas').getAttribute('aria-label')")
    assert label.endswith(f"values from {words[2]} to {words[4]}")


def test_the_most_active_maps_are_first(page, folder):
    maps = shown_and_computed(page, folder, "conv2")
    sums = maps[0].sum((1, 2))
    second = 48 + np.argsort(-sums[48:], kind="stable")[:6]
    assert page.text("[data-layer=conv2] figure:nth-of-type(2) figcaption").endswith(", ".join(map(str, second)))


def test_a_file_a_dropped_and_a_pasted_photo_are_taken(page):
    page.browser.choose_files("#file", PHOTOS[2])
    page.drawn()
    assert page.text("#label").startswith("espresso")
    content = base64.b64encode(PHOTOS[0].read_bytes()).decode()
    for kind, event, field in (("drop", "DragEvent", "dataTransfer"), ("paste", "ClipboardEvent", "clipboardData")):
        page.example(2)
        page.act(f"""{{
            const data = new DataTransfer();
            data.items.add(new File([Uint8Array.from(atob("{content}"), (c) => c.charCodeAt(0))], "a.jpg"));
            document.body.dispatchEvent(new {event}("{kind}", {{ {field}: data, bubbles: true }}));
        }}""")
        assert not page.text("#label").startswith("espresso"), kind


DROP = """{{
    const data = new DataTransfer();
    {add};
    document.body.dispatchEvent(new DragEvent("drop", {{ dataTransfer: data, bubbles: true }}));
}}"""


def test_dropped_text_is_no_photo_and_that_is_said(page):
    page.browser.run(DROP.format(add="data.setData('text/plain', 'hello')"))
    message = page.browser.wait("document.querySelector('#status.problem')?.textContent")
    assert message == "What was dropped is not a file: expected a photo."


def test_of_several_dropped_photos_the_first_is_shown_and_that_is_said(page):
    content = base64.b64encode(PHOTOS[2].read_bytes()).decode()
    photo = f"new File([Uint8Array.from(atob('{content}'), (c) => c.charCodeAt(0))], 'first.jpg')"
    page.act(DROP.format(add=f"data.items.add({photo}); data.items.add(new File(['x'], 'second.jpg'))"))
    assert page.text("#label").startswith("espresso")
    assert page.text("#status") == "Of 2 files, the first is shown: first.jpg."


def test_the_same_file_can_be_chosen_again(page):
    page.browser.choose_files("#file", PHOTOS[2])
    page.drawn()
    assert page.browser.run("document.getElementById('file').files.length") == 0


def test_a_photo_of_too_many_pixels_for_classify_is_shrunk_and_that_is_said(page, tmp_path):
    with Image.open(PHOTOS[2]) as photo:
        photo.resize((8000, 6000)).save(tmp_path / "large.jpg", quality=80)
    page.browser.run("document.querySelector('#one').checked = true")
    page.browser.choose_files("#file", tmp_path / "large.jpg")
    page.drawn()
    assert page.text("#status") == "The browser has shrunk the photo to 6633 x 4974 first."
    assert page.text("#label").startswith("espresso")


def test_a_file_that_is_no_image_is_named_and_the_next_photo_works(page, tmp_path):
    (tmp_path / "<b>notes.txt").write_text("not an image")
    page.browser.choose_files("#file", tmp_path / "<b>notes.txt")
    message = page.browser.wait("document.querySelector('#status.problem')?.textContent")
    assert message == "<b>notes.txt is not an image that this browser reads."
    page.example(2)
    assert page.text("#label").startswith("espresso")
    assert page.text("#status") == ""


def test_everything_is_reached_and_used_with_the_keyboard(page):
    reached = []
    focused = (
        "(({ id, className, textContent, name }) => id || name || className || textContent)(document.activeElement)"
    )
    page.browser.run("document.activeElement.blur()")
    for _ in range(12):
        page.browser.press("Tab")
        reached.append(page.browser.run(focused))
        if reached[-1] == "cat.jpg":
            page.browser.press("Enter")
            page.drawn()
    assert reached[:7] == ["file", "camera", "cat.jpg", "chelsea.jpg", "coffee.jpg", "ten", "lrn"]
    assert reached[7:11] == ["column", "column", "vote", "vote"]
    page.browser.press("Enter")  # the third patch
    page.drawn()
    assert "lower left" in page.text("#square-text")
    assert page.browser.run("document.activeElement.className") == "vote", "the focus stays on the patch"


def test_a_switch_is_used_with_the_space_key(page):
    page.example(2)
    before = page.probabilities
    page.browser.run("document.getElementById('lrn').focus()")
    page.browser.press("Space")
    page.drawn()
    assert np.abs(page.probabilities - before).max() > 0.001


def test_everything_has_a_name_for_screen_readers(page):
    page.example(0)
    nameless = """Array.from(document.querySelectorAll('button, input, canvas, fieldset, section, video, img'))
        .filter((e) => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.textContent.trim()
            || e.closest('label')?.textContent.trim() || e.getAttribute('alt') === '')).map((e) => e.outerHTML)"""
    assert page.browser.run(nameless) == []
    roles = "Array.from(document.querySelectorAll('canvas'), (e) => e.getAttribute('role'))"
    assert {*page.browser.run(roles)} == {"img"}
    assert page.browser.run("document.getElementById('label').getAttribute('aria-live')") == "polite"
    assert page.browser.run("document.documentElement.lang") == "en"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_is_wider_than_the_window_and_text_stands_out(page, width, dark):
    page.browser.resize(width, dark=dark)
    page.example(0)
    assert page.browser.run("document.documentElement.scrollWidth") == width
    luminance = """((e, name) => { const [r, g, b] = getComputedStyle(e)[name].match(/[0-9.]+/g).map((c) => {
        const v = c / 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; })"""
    ground = page.browser.run(f"{luminance}(document.body, 'backgroundColor')")
    assert (ground < 0.1) == dark
    for selector in ("body", ".hint", "summary", "figcaption"):
        ink = page.browser.run(f"{luminance}(document.querySelector({selector!r}), 'color')")
        assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) > 4.5, selector


@pytest.fixture
def other(folder, tmp_path, browser) -> Iterator[Callable[..., FolderServer]]:
    """Serve a copy of the site, changed by a function."""
    servers = []

    def serve(change: Callable[[Path], None] = lambda copy: None, **options) -> FolderServer:
        copy = tmp_path / f"copy{len(servers)}"
        shutil.copytree(folder, copy)
        change(copy)
        servers.append(FolderServer(copy, **options))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


@pytest.mark.parametrize("name", [f"onnxruntime-web/{SCRIPT.name}", f"onnxruntime-web/{BINARY.name}", "net.onnx"])
def test_a_file_with_another_hash_is_refused(browser, other, name):
    def damage(copy: Path) -> None:
        content = bytearray((copy / name).read_bytes())
        content[-1] ^= 1
        (copy / name).write_bytes(content)

    browser.open(other(damage).url)
    message = browser.wait("document.querySelector('#status.problem')?.textContent")
    assert message == f"{name} is not the file that this page expects: its hash differs, or it was cut off."
    assert browser.run("document.getElementById('input').hidden")


def test_a_missing_example_is_named_and_the_page_works(browser, other):
    browser.open(other(lambda copy: (copy / "examples" / PHOTOS[0].name).unlink()).url)
    browser.wait(READY)
    page = Open(browser)
    assert f"examples/{PHOTOS[0].name} can't be loaded: the server answers 404." in page.text("#examples")
    page.example(1)
    assert page.text("#label").startswith("espresso")


def test_damaged_data_of_the_page_is_named(browser, other):
    browser.open(other(lambda copy: (copy / "net.json").write_text('{"name": ')).url)
    message = browser.wait("document.querySelector('#status.problem')?.textContent")
    assert message == "net.json is damaged: write the page again."


def test_a_missing_file_is_named(browser, other):
    browser.open(other(lambda copy: (copy / "net.onnx").unlink()).url)
    message = browser.wait("document.querySelector('#status.problem')?.textContent")
    assert message == "net.onnx can't be loaded: the server answers 404."


def site_with_cdn(folder: Path, cdn: str, monkeypatch) -> Path:
    monkeypatch.setattr(site_module, "CDN", cdn)
    write_site(Site(artifact=random_artifact(), sha256="0" * 64, photos=PHOTOS[:1]), folder)
    return folder


def test_the_runtime_comes_from_another_server_and_no_third_one_is_asked(browser, tmp_path, monkeypatch):
    cdn = FolderServer(real_package() / "dist", {"Access-Control-Allow-Origin": "*"})
    third = FolderServer(tmp_path, {"Access-Control-Allow-Origin": "*"})
    own = FolderServer(site_with_cdn(tmp_path / "site", cdn.url, monkeypatch))
    try:
        browser.open(own.url)
        browser.wait(READY)
        page = Open(browser)
        page.example(0)
        assert browser.console == []
        assert {url for url in browser.requests if url.startswith(cdn.url)} == {
            cdn.url + SCRIPT.name, cdn.url + BINARY.name,
        }  # fmt: skip
        refused = "fetch(%r).then(() => 'sent', () => 'refused')"
        assert browser.run(refused % third.url) == "refused"
        assert browser.run(refused % own.url) == "sent"
    finally:
        for server in (cdn, third, own):
            server.close()


def test_a_wrong_file_from_another_server_is_refused(browser, tmp_path, monkeypatch):
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / SCRIPT.name).write_text("document.title = 'taken over'")
    (tmp_path / "dist" / BINARY.name).write_bytes(b"\0asm\1\0\0\0")
    cdn = FolderServer(tmp_path / "dist", {"Access-Control-Allow-Origin": "*"})
    own = FolderServer(site_with_cdn(tmp_path / "site", cdn.url, monkeypatch))
    try:
        browser.open(own.url)
        message = browser.wait("document.querySelector('#status.problem')?.textContent")
        assert "its hash differs" in message
        assert browser.run("document.title") == "AlexNet in this browser"
    finally:
        cdn.close()
        own.close()


def test_with_isolation_the_net_runs_in_threads(browser, other):
    headers = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
    browser.open(other(headers=headers).url)
    browser.wait(READY)
    assert browser.run("crossOriginIsolated")
    page = Open(browser)
    page.example(2)
    assert page.text("#label").startswith("espresso")
    assert browser.console == []


def test_the_page_from_disk_classifies_and_the_other_one_says_why_it_does_not(browser, folder):
    browser.open((folder / "disk.html").as_uri())
    browser.wait(READY)
    page = Open(browser)
    page.example(2)
    assert page.text("#label").startswith("espresso")
    assert browser.console == []
    assert all(url.startswith(("blob:", "data:", "file:")) for url in browser.requests)
    browser.open((folder / "index.html").as_uri())
    browser.wait("location.pathname.endsWith('index.html') && document.readyState == 'complete'")
    assert browser.run("document.getElementById('unstarted').checkVisibility()")
    text = browser.run("document.body.innerText")
    assert "python3 -m http.server" in text


def test_names_are_shown_as_text(browser, tmp_path):
    artifact = random_artifact()
    hostile = "<img src=x onerror=document.title=1>"
    classes = tuple(ClassName(wnid=entry.wnid, name=hostile) for entry in artifact.manifest.classes)
    net = Artifact(replace(artifact.manifest, name=hostile, classes=classes), artifact.tensors)
    runtime = read_runtime(real_package())
    write_site(Site(artifact=net, sha256="0" * 64, runtime=runtime, photos=PHOTOS[:1]), tmp_path)
    server = FolderServer(tmp_path)
    try:
        browser.open(server.url)
        browser.wait(READY)
        page = Open(browser)
        page.example(0)
        assert page.text("#label").startswith(hostile)
        assert hostile in page.text("#about")
        assert browser.run("document.querySelectorAll('img[src=x]').length") == 0
    finally:
        server.close()
