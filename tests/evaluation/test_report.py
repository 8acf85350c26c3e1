"""The report: it has every figure, shows names from files as text, and needs no other file."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.errors import BackendError, UsageError
from alexnet_infer.evaluation.examples import Examples, Shown
from alexnet_infer.evaluation.paper import PUBLISHED
from alexnet_infer.evaluation.report import ReportedNet, check_page, check_report, write_report
from alexnet_infer.evaluation.result import Confusion, Evaluation, Sample
from alexnet_infer.evaluation.tally import Reliability
from alexnet_infer.manifest import ClassName
from tests.evaluation.page import Page
from tests.evaluation.results import CLASSES, WNIDS, result
from tests.nets import random_artifact

pytest.importorskip("jinja2", reason='needs jinja2: pip install "alexnet-infer[report]"')

DASH, MINUS, TIMES = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
HOSTILE = (
    "<script>alert(1)</script>",
    '" onerror="alert(1)',
    "' onerror='alert(1)",
    "</style></svg><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "naïve 猫 \N{CAT FACE} &amp; &lt;",
    "x" * 300,
)


def shown(name: str = "val/1.png", label: ClassName = CLASSES[0], classes=CLASSES, seed: int = 0) -> Shown:
    square = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)
    return Shown(
        name=name, square=square, label=label, guesses=tuple(zip(classes[1::-1], (0.6132, 0.2718), strict=True))
    )


def reported(evaluation: Evaluation) -> list[ReportedNet]:
    return [ReportedNet.of(random_artifact(seed=i)) for i in range(len(evaluation.nets))]


def written(evaluation: Evaluation, tmp_path: Path, examples: Examples | None = None, nets=None) -> Page:
    examples = examples or Examples(mistakes=(shown(),), sample=(shown("2.png", seed=1),))
    nets = reported(evaluation) if nets is None else nets
    return Page(write_report(evaluation, examples, nets, tmp_path / "report").read_text("utf-8"))


FOREIGN = {
    "another page": b"<!DOCTYPE html><title>Mine</title><p>alexnet-infer 1.0",
    "empty": b"",
    "mentions it late": b" " * 10_000 + b'<meta name="generator" content="alexnet-infer 1.0">',
    "not text": bytes(range(256)),
}


@pytest.mark.parametrize("content", [*FOREIGN.values(), "pipe", "folder", "link", "link to nothing"], ids=str)
def test_a_page_of_another_program_is_kept(tmp_path, content):
    page = tmp_path / "index.html"
    if content == "folder":
        page.mkdir()
    elif content == "pipe":
        os.mkfifo(page)
    elif isinstance(content, str):
        page.symlink_to(tmp_path / "other")
        (tmp_path / "other").write_bytes(b"mine") if content == "link" else None
    else:
        page.write_bytes(content)

    def kept() -> tuple[int, ...]:  # not the time of the last access
        status = page.lstat()
        return status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns

    before = kept()
    examples = Examples(mistakes=(), sample=())
    for write in (lambda: check_page(tmp_path), lambda: write_report(result(), examples, [], tmp_path)):
        with pytest.raises(UsageError, match=r"index\.html was not written by alexnet-infer and would be overwritten"):
            write()
    assert kept() == before


def test_an_own_page_is_overwritten(tmp_path):
    for _ in range(2):
        check_page(tmp_path)
        write_report(result(), Examples(mistakes=(), sample=()), [], tmp_path)


def percent(value: float | None) -> str:
    return DASH if value is None else format(100 * value, ".2f")


def signed(value: float) -> str:
    return "0.00" if round(100 * value, 2) == 0 else format(100 * value, "+.2f").replace("-", MINUS)


def error_cells(error: dict) -> list[str]:
    return [percent(error["error"]), f"{percent(error['low'])}{DASH}{percent(error['high'])}", str(error["wrong"])]


def expected_rows(data: dict) -> Iterator[list[str]]:
    """The rows of the page's tables, made from the JSON."""
    for net in data["nets"]:
        yield [net["name"], *error_cells(net["top1"]), *error_cells(net["top5"]), ""]
    yield ["mean of 2 nets", *error_cells(data["ensemble"]["top1"]), *error_cells(data["ensemble"]["top5"]), ""]
    for comparison in data["ensemble"]["against"]:
        for k in (1, 5):
            pair = comparison[f"top{k}"]
            cells = [
                signed(pair["difference"]),
                f"{signed(pair['low'])} to {signed(pair['high'])}",
                str(pair["ensemble_only_wrong"]),
                str(pair["net_only_wrong"]),
                f"{pair['p']:.3f}",
            ]
            yield [*([comparison["net"]] if k == 1 else []), f"top-{k}", *cells]
    for bin_ in data["calibration"]["bins"]:
        bounds = f"{percent(bin_['low'])}{DASH}{percent(bin_['high'])}"
        yield [bounds, str(bin_["images"]), percent(bin_["confidence"]), percent(bin_["accuracy"])]
    names = {class_["wnid"]: class_["name"].split(",")[0] for class_ in data["classes"]}
    for pair in data["confusions"]:
        named = [f"{names[pair[key]]} {pair[key]}" for key in ("label", "guess")]
        yield [*named, str(pair["images"]), str(pair["of"]), percent(pair["images"] / pair["of"])]
    for image in data["data"]["unreadable"]:
        yield [image["image"], image["reason"]]


def test_every_figure_of_the_result_is_on_the_page(tmp_path):
    evaluation = result(sample=Sample(images=8, of=5000))
    data = json.loads(json.dumps(evaluation.to_json()))
    page = written(evaluation, tmp_path)
    for row in expected_rows(data):
        assert row in page.rows
    for class_ in data["classes"]:
        errors = [
            percent(class_[k] / class_["images"]) if class_["images"] else percent(None) for k in ("top1", "top5")
        ]
        counts = [str(class_["images"]), str(class_["top1"]), errors[0], "", str(class_["top5"]), errors[1]]
        assert [f"{class_['name']} {class_['wnid']}", *counts] in [row[1:] for row in page.rows]
    for text in (
        data["data"]["listing"],
        f"{percent(data['calibration']['ece'])} %",
        "8: a sample of 8, stratified by class, of 5,000",
        *data["protocol"]["deviations"],
        *(net[key] for net in data["nets"] for key in ("sha256", "backend")),
        *(f"{net['parameters']:,}" for net in data["nets"]),
        f"alexnet-infer {data['alexnet_infer']}",
    ):
        assert text in page.text


def test_all_published_errors_are_on_the_page_with_their_digits(tmp_path):
    rows = written(result(), tmp_path).rows
    for row in PUBLISHED:
        figures = ["" if value is None else f"{value:.1f}" for value in (row.top1, row.top5)]
        assert any(cells[:2] == [row.net, figures[0]] and cells[4] == figures[1] for cells in rows if len(cells) == 8)
    assert ["1 CNN", "40.7", "", "", "18.2", "", "", "ten views; not comparable"] in rows


def test_the_worst_class_is_first_and_classes_without_images_are_last(tmp_path):
    evaluation = result()
    counts = [(2, 1, 0), (0, 0, 0), (4, 2, 1), (10, 9, 0), (3, 0, 0), (2, 2, 1), (2, 2, 2)]
    classes = [
        replace(class_, images=images, top1=top1, top5=top5)
        for class_, (images, top1, top5) in zip(evaluation.classes, counts, strict=True)
    ]
    page = written(replace(evaluation, classes=tuple(classes)), tmp_path)
    order = [row[1].split()[-1] for row in page.rows if len(row) == 8 and row[0].isdigit()]
    assert order == [WNIDS[i] for i in (6, 5, 3, 2, 0, 4, 1)]


def test_a_confusion_with_a_class_that_the_data_lacks_has_the_nets_name(tmp_path):
    artifact = random_artifact()
    pair = Confusion(label=WNIDS[0], guess=artifact.manifest.classes[0].wnid, images=1, of=2)
    unknown = replace(pair, guess="n99999999")
    evaluation = replace(result(), confusions=(pair, unknown))
    rows = written(evaluation, tmp_path).rows
    assert [f"ant {WNIDS[0]}", "class 0 n00000000", "1", "2", "50.00"] in rows
    assert [f"ant {WNIDS[0]}", "n99999999", "1", "2", "50.00"] in rows


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (1.0, "1.000"),
        (0.0123, "0.012"),
        (0.00099, f"9.9 {TIMES} 10{MINUS}4"),
        (1e-12, f"1.0 {TIMES} 10{MINUS}12"),
        (0.0, f"< 10{MINUS}300"),
    ],
)
def test_a_small_p_value_is_a_power_of_ten(tmp_path, p, text):
    evaluation = result()
    first, second = evaluation.ensemble.against
    against = (replace(first, top1=replace(first.top1, p=p)), second)
    page = written(replace(evaluation, ensemble=replace(evaluation.ensemble, against=against)), tmp_path)
    assert next(row for row in page.rows if row[:2] == ["first", "top-1"])[-1] == text


def test_the_page_names_the_best_net_and_says_whether_the_mean_is_significantly_better(tmp_path):
    evaluation = result()
    undecided = "Against first, the best of the nets: The mean is not significantly better in top-1 or top-5 error."
    assert undecided in written(evaluation, tmp_path).text
    first, second = evaluation.ensemble.against
    sure = replace(first.top1, low=-0.2, high=-0.1, p=0.001)
    against = (replace(first, top1=sure, top5=sure), second)
    page = written(replace(evaluation, ensemble=replace(evaluation.ensemble, against=against)), tmp_path)
    assert "the best of the nets: The mean is significantly better in top-1 and top-5 error." in page.text


def test_an_image_has_its_label_below_and_a_bar_for_each_guess_and_the_right_guess_is_marked(tmp_path):
    page = written(result(), tmp_path, Examples(mistakes=(shown(),), sample=()))
    bars = [element["style"] for element in page.all("i")]
    assert bars == ["width:61.32%", "width:27.18%"]
    assert [element.get("class") for element in page.all("li")[-2:]] == [None, "right"]
    assert "ant val/ 1.png bee 61.3 ant ✓ 27.2" in page.text
    assert "A random sample" not in page.text


def test_one_net_has_no_comparison_and_without_model_files_no_recipe_is_shown(tmp_path):
    page = written(result(names=("only",)), tmp_path, Examples(mistakes=(), sample=()), nets=[])
    assert "Paired" not in page.text
    assert not page.all("img")
    assert "seed" not in page.text
    assert "only on zoo" in page.text


def test_with_model_files_kernels_recipe_and_input_are_shown(tmp_path):
    evaluation = result()
    page = written(evaluation, tmp_path, Examples(mistakes=(), sample=()))
    assert len(page.all("img")) == 2
    caption = "in the first layer of random-alexnet-64. Each of the 2 columns has 8 kernels."
    assert f"The 16 kernels of 3 {TIMES} 3 {TIMES} 3 {caption}" in page.text
    assert "seed 1" in page.text
    assert '{"name": "random"}' in page.text
    assert "RGB 0-255 minus the training mean" in page.text


def test_a_result_without_readable_images_or_deviations_is_written(tmp_path):
    empty_calibration = Reliability.of(np.zeros(0, np.int64), np.zeros(0, bool))
    evaluation = result(deviations=())
    classes = tuple(replace(class_, images=0, top1=0, top5=0) for class_ in evaluation.classes)
    page = written(replace(evaluation, calibration=empty_calibration, classes=classes, confusions=()), tmp_path)
    assert "paper's protocol None." in page.text
    assert "No mistakes: every readable image was classified correctly." in page.text


def hostile() -> tuple[Evaluation, Examples]:
    classes = tuple(ClassName(wnid=wnid, name=name) for wnid, name in zip(WNIDS, HOSTILE, strict=True))
    evaluation = result(
        names=HOSTILE[:2], data=HOSTILE[3], classes=classes, deviations=HOSTILE, reason=HOSTILE[1] + "\n\x1b[31m"
    )
    images = tuple(shown(f"{name}.png", label=classes[i], classes=classes) for i, name in enumerate(HOSTILE))
    odd = shown("turned \u202e\udcff.png", classes=classes)
    return evaluation, Examples(mistakes=images, sample=(odd,))


def test_names_from_files_are_plain_text(tmp_path):
    evaluation, examples = hostile()
    page, plain = written(evaluation, tmp_path, examples), written(result(), tmp_path)
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in plain.elements}
    assert {key for _, attributes in page.elements for key in attributes} == {
        key for _, attributes in plain.elements for key in attributes
    }
    assert page.style == plain.style
    for name in HOSTILE:
        assert " ".join(name.split()) in page.text
    assert f"{HOSTILE[1]}.png, labelled {HOSTILE[1]}" in [element["alt"] for element in page.all("img")]
    assert r"turned \u202e\udcff.png" in page.text
    assert r"\n\x1b[31m" in page.text


def test_the_page_needs_no_other_file(tmp_path):
    evaluation, examples = hostile()
    page = written(evaluation, tmp_path, examples)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "base", "iframe", "object", "form")
        if "src" in attributes:
            assert attributes["src"].startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))
        if "href" in attributes:
            assert attributes["href"].removeprefix("#") in ids
        assert "url(" not in (attributes.get("style") or "")
    assert not re.search(r"url\(|@import|https?:", page.style)
    assert {
        "http-equiv": "Content-Security-Policy",
        "content": "default-src 'none'; img-src data:; style-src 'unsafe-inline'",
    } in page.all("meta")
    assert [file.name for file in (tmp_path / "report").iterdir()] == ["index.html"]


def test_images_have_alternatives_and_tables_captions_and_headers(tmp_path):
    page = written(*hostile()[:1], tmp_path)
    assert all(element["alt"] for element in page.all("img"))
    assert all(element["role"] == "img" and element["aria-label"] for element in page.all("svg"))
    assert len(page.all("caption")) + sum("aria-labelledby" in table for table in page.all("table")) == len(page.tables)
    assert all("scope" in element for element in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]


def luminance(color: str) -> float:
    """Relative luminance of #rgb or #rrggbb, as WCAG 2.1 defines it."""
    digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_and_bars_have_enough_contrast_in_both_schemes(tmp_path):
    schemes = re.findall(r":root \{(.*?)\}", written(result(), tmp_path).style, re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        colors = {name: luminance(value) for name, value in re.findall(r"--(\w+): (#\w+)", scheme)}

        def contrast(a: str, b: str, colors=colors) -> float:
            low, high = sorted((colors[a], colors[b]))
            return (high + 0.05) / (low + 0.05)

        for ink in ("ink", "soft", "mark"):
            assert contrast(ink, "paper") >= 4.5
            assert contrast(ink, "faint") >= 4.5
        assert contrast("bar", "paper") >= 3


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    evaluation, examples = hostile()
    pages = [
        write_report(evaluation, examples, reported(evaluation), tmp_path / name).read_bytes() for name in ("a", "b")
    ]
    assert pages[0] == pages[1]


def test_without_jinja2_the_error_has_the_pip_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    for attempt in (check_report, lambda: write_report(result(), Examples(mistakes=(), sample=()), [], tmp_path / "r")):
        with pytest.raises(BackendError, match=re.escape('pip install "alexnet-infer[report]"')):
            attempt()
    assert not (tmp_path / "r").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"^--report .*file: can't be written \(File exists\)$"):
        write_report(result(), Examples(mistakes=(), sample=()), [], tmp_path / "file")


HARNESS = """<!DOCTYPE html><meta charset="utf-8"><title>measures</title>
<iframe style="width:400px;height:800px;border:0" srcdoc="{page}"></iframe>
<iframe style="width:1400px;height:800px;border:0" srcdoc="{page}"></iframe>
<script>
onload = () => {{
  const measures = [...document.querySelectorAll("iframe")].map(({{contentWindow: w}}) => ({{
    inner: w.innerWidth,
    scroll: w.document.documentElement.scrollWidth,
    images: [...w.document.images].map(image => image.naturalWidth),
    family: w.getComputedStyle(w.document.body).fontFamily,
  }}));
  document.title = JSON.stringify(measures);
}};
</script>"""


def test_a_browser_shows_it_at_400_and_1400_pixels_without_horizontal_scrolling_or_messages(tmp_path):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs a browser: apt-get install chromium")
    evaluation, examples = hostile()
    text = write_report(evaluation, examples, reported(evaluation), tmp_path / "report").read_text("utf-8")
    harness = tmp_path / "harness.html"
    harness.write_text(HARNESS.format(page=html.escape(text)), encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    options += ["--disable-background-networking", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([browser, *options, "--dump-dom", harness.as_uri()], capture_output=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", done.stdout.decode())
    measures = json.loads(html.unescape(title[1]))
    assert [measure["inner"] for measure in measures] == [400, 1400]
    for measure in measures:
        assert measure["scroll"] <= measure["inner"]
        assert len(measure["images"]) == 10  # 8 examples and the kernels of 2 nets
        assert all(measure["images"])
        assert measure["family"].startswith("Charter")  # the page's security policy allows its styles
    assert not [line for line in done.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line]
