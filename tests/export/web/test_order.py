"""What the page does when photos, switches and the camera overlap."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.export.web.conftest import PHOTOS

CAMERA = "document.getElementById('camera')"
CLICK = f"{CAMERA}.click()"
LIVE = "window.streams.flatMap((s) => s.getTracks()).filter((t) => t.readyState == 'live').length"
SLOW = """{
    window.streams = []; window.asked = 0;
    const get = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (options) => {
        window.asked++;
        const stream = await get(options);
        await new Promise((done) => { window.allow = done; });
        window.streams.push(stream);
        return stream;
    };
}"""
"""The permission for the camera is pending until `allow` is called."""


@pytest.fixture
def slow(page):
    page.browser.run(SLOW)
    return page


def settle(page) -> None:
    """Wait until nothing new is shown for 300 ms."""
    page.browser.run("""(async () => {
        let shown;
        do {
            shown = document.body.dataset.shown;
            await new Promise((done) => setTimeout(done, 300));
        } while (shown != document.body.dataset.shown || document.querySelector("[aria-busy]"));
    })()""")


def test_the_camera_is_used_only_when_it_is_asked_for_and_can_be_stopped(page):
    assert page.browser.run("document.getElementById('video').srcObject === null")
    page.switch("#camera")
    assert page.browser.run("document.getElementById('video').srcObject.active")
    page.drawn()
    page.browser.run("document.getElementById('camera').click()")
    assert page.browser.run("document.getElementById('video').srcObject === null")
    page.browser.run("new Promise((done) => setTimeout(done, 300))")
    shown = page.browser.run("document.body.dataset.shown")
    page.browser.run("new Promise((done) => setTimeout(done, 300))")
    assert page.browser.run("document.body.dataset.shown") == shown


def test_a_double_click_asks_for_the_camera_once_and_stop_ends_it(slow):
    slow.browser.run(f"{CLICK}; {CLICK}")
    slow.browser.wait("!!window.allow")
    assert slow.browser.run(f"{CAMERA}.disabled")
    slow.browser.run("window.allow()")
    slow.drawn()
    assert slow.browser.run("window.asked") == 1
    assert slow.browser.run(LIVE) == 1
    slow.browser.run(CLICK)
    assert slow.browser.run(LIVE) == 0


def test_a_photo_that_is_chosen_while_the_camera_starts_stays(slow):
    slow.browser.run(CLICK)
    slow.browser.wait("!!window.allow")
    slow.example(2)
    slow.browser.run("window.allow()")
    slow.browser.wait("window.streams.length")
    settle(slow)
    assert slow.browser.run(LIVE) == 0
    assert slow.text("#label").startswith("espresso")
    assert slow.text("#camera") == "Use the camera"


def test_a_camera_that_is_disconnected_is_off_and_that_is_said(slow):
    slow.browser.run(CLICK)
    slow.browser.wait("!!window.allow")
    slow.browser.run("window.allow()")
    slow.drawn()
    slow.browser.run(
        "for (const t of window.streams[0].getTracks()) { t.stop(); t.dispatchEvent(new Event('ended')); }"
    )
    settle(slow)
    assert slow.text("#status") == "The camera can't be used: it was disconnected"
    assert slow.text("#camera") == "Use the camera"
    assert slow.browser.run("document.getElementById('video').srcObject === null")


@pytest.mark.parametrize("broken", ["play", "frame"])
def test_a_camera_that_fails_is_stopped_and_the_reason_is_said(slow, broken):
    slow.browser.run({
        "play": "document.getElementById('video').play = () => Promise.reject(new Error('no picture'))",
        "frame": "OffscreenCanvas.prototype.getContext = () => { throw new Error('no picture'); }",
    }[broken])  # fmt: skip
    slow.browser.run(CLICK)
    slow.browser.wait("!!window.allow")
    slow.browser.run("window.allow()")
    message = slow.browser.wait("document.querySelector('#status.problem')?.textContent")
    assert message == "The camera can't be used: no picture"
    assert slow.browser.run(LIVE) == 0


def test_a_photo_that_takes_long_to_decode_does_not_replace_a_newer_one(page, tmp_path):
    with Image.open(PHOTOS[0]) as photo:
        photo.resize((4000, 3000)).save(tmp_path / "large.jpg", quality=80)
    page.browser.choose_files("#file", tmp_path / "large.jpg")
    page.example(2)
    settle(page)
    assert page.text("#label").startswith("espresso")


def test_a_damaged_photo_says_nothing_about_a_newer_one(page):
    page.browser.run("""{
        const decode = window.createImageBitmap;
        window.createImageBitmap = (blob, options) => blob.name != "bad.jpg" ? decode(blob, options)
            : new Promise((_, fail) => { window.fail = fail; });
        const data = new DataTransfer();
        data.items.add(new File(["x"], "bad.jpg"));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
    }""")
    page.example(2)
    page.browser.run("window.fail(new Error())")
    settle(page)
    assert page.text("#status") == ""
    assert page.text("#label").startswith("espresso")


def test_of_many_switches_the_last_is_computed_and_most_others_are_not(page):
    page.browser.run("document.querySelector('#one').checked = true")
    page.example(2)
    on = page.probabilities
    page.switch("#lrn")
    off = page.probabilities
    assert abs(on - off).max() > 0.001
    page.browser.run("""window.counts = []; new MutationObserver(() => window.counts.push(document.body.dataset.shown))
        .observe(document.body, { attributes: true, attributeFilter: ["data-shown"] })""")
    page.browser.run("for (let i = 0; i < 31; i++) document.getElementById('lrn').click()")
    settle(page)
    assert abs(page.probabilities - on).max() < 1e-6
    assert len(set(page.browser.run("window.counts"))) == 1


def test_the_page_says_that_it_computes(page):
    page.example(2)
    said = page.browser.run("""(() => {
        document.getElementById("lrn").click();
        return [document.getElementById("status").textContent, document.querySelectorAll("[aria-busy=true]").length];
    })()""")
    assert said == ["Computing ...", 1]
    settle(page)
    assert page.text("#status") == ""
    assert page.browser.run("document.querySelectorAll('[aria-busy]').length") == 0


def test_an_error_of_the_net_is_said_and_the_next_photo_works(page):
    page.example(2)
    page.browser.run("window.old = Float32Array.from; Float32Array.from = () => { throw new Error('broken'); }")
    page.browser.run("document.getElementById('lrn').click()")
    assert page.browser.wait("document.querySelector('#status.problem')?.textContent") == (
        "broken What is below was computed before."
    )
    page.browser.run("Float32Array.from = window.old")
    page.example(0)
    assert page.text("#status") == ""
