"""The page: it has every number, shows names as text, and needs no other file."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.architecture import Conv, Dense
from alexnet_infer.errors import BackendError, UsageError
from alexnet_infer.explain.measure import CENTRAL, Explained
from alexnet_infer.explain.page import check_out, write
from tests.evaluation.page import Page
from tests.explain.explained import PREPROCESSINGS, VARIANTS, explained, net, photo
from tests.nets import TINY, random_artifact

pytest.importorskip("jinja2", reason='needs jinja2: pip install "alexnet-infer[report]"')

HOSTILE = (
    "<script>alert(1)</script>",
    '" onerror="alert(1)',
    "' onerror='alert(1)",
    "</style></svg><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "na\u00efve \u732b \N{CAT FACE} &amp; &lt;",
    "x" * 300,
)


@pytest.fixture
def plain(of_variant) -> Explained:
    return of_variant("two columns")


def page_of(folder: Path, *nets: Explained, name: str = "photo.jpg") -> Page:
    return Page(write(photo(name), nets, folder / "page.html").read_text("utf-8"))


def percent(value: float, digits: int = 2) -> str:
    return format(100 * float(value), f".{digits}f")


def test_each_patch_has_its_row_and_the_last_row_is_the_mean(tmp_path, plain):
    page = page_of(tmp_path, plain)
    answer = np.argsort(-plain.mean, kind="stable")[:5]
    names = ["upper left", "upper right", "lower left", "lower right", "centre"]
    for i, name in enumerate([*names, *(f"{name}, mirrored" for name in names)]):
        own = int(plain.votes[i].argmax())
        cells = [percent(plain.votes[i, c]) for c in answer]
        assert [name, *cells, f"class {own}, {percent(plain.votes[i, own])}"] in page.rows
    means = [percent(np.mean([float(vote[c]) for vote in plain.votes])) for c in answer]
    assert ["mean", *means, f"class {answer[0]}, {means[0]}"] in page.rows
    assert f"{percent(plain.mean[answer[0]], 1)} %" in page.text


def test_each_patch_has_its_own_five_labels(tmp_path, plain):
    page = page_of(tmp_path, plain)
    widths = [element["style"] for element in page.all("i") if "width" in element["style"]]
    for vote in plain.votes:
        five = [f"width:{percent(p)}%" for p in sorted(map(float, vote), reverse=True)[:5]]
        assert any(widths[i : i + 5] == five for i in range(len(widths)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_operation_has_a_heading_its_row_and_its_sizes(tmp_path, of_variant, variant):
    found = of_variant(variant)
    page = page_of(tmp_path, found)
    ids = {attributes.get("id") for _, attributes in page.elements}
    architecture = found.manifest.architecture
    rows = {row[0]: row for row in page.rows if len(row) == 6}
    for step in architecture.steps:
        assert f"layer-{step.operation.name}" in ids
        row = rows[step.operation.name]
        shapes = [
            f"{s[1]} \u00d7 {s[2]} \u00d7 {s[0]}" if len(s) == 3 else f"{s[0]} units" for s in (step.input, step.output)
        ]
        weights = sum(np.prod(shape) for name, shape in step.tensors.items() if "running" not in name)
        assert row[2:5] == [*shapes, f"{weights:,.0f}" if weights else ""]
        if isinstance(step.operation, Conv | Dense):
            assert int(row[5].replace(",", "")) == step.multiply_adds > 0
        else:
            assert row[5] == ""
    assert rows["all"][4:] == [f"{architecture.parameters:,}", f"{architecture.multiply_adds:,}"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_map_has_its_number_and_its_mean_below_and_columns_are_apart(tmp_path, of_variant, variant):
    found = of_variant(variant)
    page = page_of(tmp_path, found)
    alts = [element["alt"] for element in page.all("img")]
    drawn = 0
    for values in found.values.values():
        if values.ndim == 3:
            drawn += len(values)
    assert len([alt for alt in alts if re.fullmatch(r"Map \d+: .*", alt)]) == drawn
    assert len([alt for alt in alts if alt.startswith("Kernel ")]) == len(found.kernels.weights)
    assert ("Column 2: maps 8 to 15" in page.text) == (found.kernels.columns == 2)
    means = np.abs(found.values["act1"].astype(float)).mean((1, 2))
    strongest = int(means[: len(means) // found.kernels.columns].argmax())
    assert f"{strongest} {means[strongest]:#.3g}".rstrip(".") in page.text


def test_maps_of_a_layer_are_in_the_order_of_the_most_active_after_the_activation(tmp_path, plain):
    page = page_of(tmp_path, plain)
    numbers = [int(alt.split()[1][:-1]) for e in page.all("img") if (alt := e["alt"]).startswith("Map ") and ":" in alt]
    means = np.abs(plain.values["act1"].astype(float)).mean((1, 2))
    expected = [*np.argsort(-means[:8], kind="stable"), *(8 + np.argsort(-means[8:], kind="stable"))]
    # conv1, act1, norm1, pool1: all in the same order, and the kernels as well
    assert numbers[:64] == [int(i) for i in expected] * 4
    kernels = [int(e["alt"].split()[1]) for e in page.all("img") if e["alt"].startswith("Kernel ")]
    assert kernels == [int(i) for i in expected]


def test_scores_become_probabilities_in_the_table(tmp_path, plain):
    rows = page_of(tmp_path, plain).rows
    scores = plain.values["fc8"].astype(float)
    powers = np.exp(scores - scores.max())
    for i in np.argsort(-plain.votes[CENTRAL], kind="stable")[:5]:
        score = f"{scores[i]:.3f}".replace("-", "\N{MINUS SIGN}")
        assert [f"class {i}", score, f"{powers[i]:.4f}", percent(powers[i] / powers.sum())] in rows
    assert ["sum", "", f"{powers.sum():.4f}", "100.00"] in rows


def test_units_that_are_not_0_are_counted(tmp_path, plain):
    text = page_of(tmp_path, plain).text
    for name in ("act_fc6", "act_fc7"):
        units = plain.values[name]
        count = sum(1 for v in units if v != 0)
        assert f"{count} units, {percent(count / len(units), 1)} %, are not 0." in text


def test_every_position_of_the_hiding_square_is_in_the_table_with_its_size_said(tmp_path):
    found = explained(tmp_path, views="ten", hidden=30, stride=20)
    page = page_of(tmp_path, found)
    assert found.occlusion.hiding.offsets == (0, 20, 34)
    for offset, row in zip((0, 20, 34), found.occlusion.probability, strict=True):
        assert [str(offset), *(percent(p, 1) for p in row)] in page.rows
    assert "A square of 30 \u00d7 30 of the 64 \u00d7 64 pixels of the photo's square is filled" in page.text
    assert "steps of 20 pixels, with a shorter last step to the edge, to 3 \u00d7 3 positions" in page.text
    assert f"{percent(found.mean[found.occlusion.label], 1)} % with nothing hidden" in page.text


def test_a_fine_map_has_no_table_and_says_where_the_numbers_are(tmp_path, plain):
    hiding = replace(plain.occlusion.hiding, square=33, stride=1)
    fine = np.linspace(0.1, 0.2, hiding.positions).reshape(25, 25)
    occlusion = replace(plain.occlusion, hiding=hiding, probability=fine, first=np.zeros((25, 25), int))
    page = page_of(tmp_path, replace(plain, occlusion=occlusion))
    assert "too many positions for a table of numbers; --json prints them" in page.text


@pytest.mark.parametrize("given", PREPROCESSINGS.values(), ids=list(PREPROCESSINGS))
def test_the_preprocessing_of_the_net_is_said(tmp_path, given):
    text = page_of(tmp_path, explained(tmp_path, net(preprocessing=given))).text
    assert f"{given.channel_order} {given.value_range} minus the training mean" in text
    assert ("whatever its shape" in text) == (given.fit == "stretch")
    if given.mean.ndim == 3:
        assert "from its pixels, pixel by pixel" in text
    else:
        red = given.mean[0 if given.channel_order == "RGB" else 2]
        assert f"{red:#.3g}".rstrip(".") + " from red" in text


def test_two_nets_are_beside_each_other_and_a_layer_that_only_one_has_is_in_its_place(tmp_path, of_variant):
    page = page_of(tmp_path, of_variant("two columns"), of_variant("sixth convolution"))
    assert page.all("body") == [{"class": "two"}]
    assert re.search(r"random-alexnet-64 \(\w{8}\) has no conv6\.", page.text)
    ids = [attributes["id"] for _, attributes in page.elements if attributes.get("id", "").startswith("layer-")]
    assert ids.index("layer-pool5") < ids.index("layer-conv6") < ids.index("layer-fc6")
    check_self_contained(page)


def hostile(folder: Path) -> Explained:
    return explained(folder, net(classes=HOSTILE, name=HOSTILE[0]))


def test_names_from_files_are_plain_text(tmp_path, plain):
    (tmp_path / "plain").mkdir()
    usual = page_of(tmp_path / "plain", plain)
    odd = page_of(tmp_path, hostile(tmp_path), name="<b>&\u202e\udcff\n\x1b[31m.jpg")
    assert {tag for tag, _ in odd.elements} == {tag for tag, _ in usual.elements}
    assert {key for _, attributes in odd.elements for key in attributes} == {
        key for _, attributes in usual.elements for key in attributes
    }
    assert (odd.style, odd.script) == (usual.style, usual.script)
    for name in HOSTILE[:5]:
        assert " ".join(name.split(",")[0].split()) in odd.text
    assert r"<b>&\u202e\udcff\n\x1b[31m.jpg" in odd.text


def check_self_contained(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        assert tag not in ("link", "base", "iframe", "object", "form")
        assert not [key for key in attributes if key.startswith("on")]
        if "src" in attributes:
            assert attributes["src"].startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))
        if "href" in attributes:
            assert attributes["href"].startswith("#")
            assert attributes["href"].removeprefix("#") in ids
        assert "url(" not in (attributes.get("style") or "")
    assert not re.search(r"url\(|@import|https?:", page.style + page.script)


def test_the_page_needs_no_other_file_and_allows_only_its_own_script(tmp_path):
    page = page_of(tmp_path, hostile(tmp_path))
    check_self_contained(page)
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert {"http-equiv": "Content-Security-Policy", "content": policy} in page.all("meta")
    assert len(page.all("script")) == 1


def test_images_have_alternatives_and_sizes_and_are_decoded_late(tmp_path, plain):
    images = page_of(tmp_path, plain).all("img")
    assert sum(not element["alt"].strip() for element in images) == 10, "the patches: their labels have their names"
    for element in images:
        assert int(element["width"]) > 0
        assert int(element["height"]) > 0
        assert (element["loading"], element["decoding"]) == ("lazy", "async")


def test_tables_have_captions_and_heads_and_headings_are_in_order(tmp_path, plain):
    page = page_of(tmp_path, plain)
    assert len(page.all("caption")) == len(page.tables) == 4
    assert all(element["scope"] in ("row", "col") for element in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert [len(page.all(tag)) for tag in ("header", "main", "nav")] == [1, 1, 1]
    assert all(element.get("role") == "img" or element.get("aria-hidden") == "true" for element in page.all("svg"))
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert {element["aria-labelledby"] for element in page.all("section")} <= ids


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(photo(), [hostile(tmp_path / name)], tmp_path / name / "page.html")
    assert (tmp_path / "a" / "page.html").read_bytes() == (tmp_path / "b" / "page.html").read_bytes()


def test_the_file_of_another_program_is_kept_and_an_own_page_is_overwritten(tmp_path, plain):
    out = tmp_path / "page.html"
    for _ in range(2):
        write(photo(), [plain], out)
    out.write_text("<!DOCTYPE html><title>Mine</title>")
    for attempt in (lambda: check_out(out), lambda: write(photo(), [plain], out)):
        with pytest.raises(UsageError, match=r"page\.html was not written by alexnet-infer .* expected another file"):
            attempt()
    assert "Mine" in out.read_text()


def test_without_jinja2_the_error_has_the_pip_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(BackendError, match=re.escape('explain needs jinja2: pip install "alexnet-infer[report]"')):
        check_out(tmp_path / "page.html")


HARNESS = """<!DOCTYPE html><meta charset="utf-8"><title>measures</title>
<iframe style="width:400px;height:800px;border:0" srcdoc="{page}"></iframe>
<iframe style="width:1400px;height:800px;border:0" srcdoc="{page}"></iframe>
<script>
onload = () => {{
  const measures = [...document.querySelectorAll("iframe")].map(({{contentWindow: w}}) => {{
    const outline = w.document.querySelector(".outline-0-1 .line");
    const width = () => parseFloat(w.getComputedStyle(outline).strokeWidth);
    const press = (key) => {{
      w.dispatchEvent(new w.KeyboardEvent("keydown", {{key}}));
      return w.document.activeElement.id;
    }};
    const before = width();
    w.document.getElementById("vote-0-6").click();
    return {{
      inner: w.innerWidth,
      scroll: w.document.documentElement.scrollWidth,
      family: w.getComputedStyle(w.document.body).fontFamily,
      outline: [before, width()],
      focus: [press("j"), press("j"), press("k")],
      hint: w.document.getElementById("keys").hidden,
    }};
  }});
  document.title = JSON.stringify(measures);
}};
</script>"""


@pytest.mark.parametrize("nets", [1, 2], ids=["one", "two"])
def test_a_browser_shows_it_at_400_and_1400_pixels_without_horizontal_scrolling_or_messages(tmp_path, nets):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs a browser: apt-get install chromium")
    shown = [hostile(tmp_path)] * nets
    text = write(photo("x" * 200 + ".jpg"), shown, tmp_path / "page.html").read_text("utf-8")
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
        assert measure["family"].startswith("Charter")
        assert measure["outline"][1] > measure["outline"][0]
        assert measure["focus"][:2] == ["photo", "mean"]
        assert measure["hint"] is False
    assert not [line for line in done.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line]


def test_the_nets_with_the_most_maps_leave_some_out_and_say_so(tmp_path):
    artifact = random_artifact(replace(TINY, kernels=(16, 32, 32, 32, 200)), size=64)
    page = page_of(tmp_path, explained(tmp_path, artifact))
    assert "36 more maps of conv5, column 1; the other 52 of 100 are not on this page" in page.text


def test_a_very_sure_net_has_a_scale_of_5_points_and_numbers_that_differ(tmp_path, plain):
    side = len(plain.occlusion.hiding.offsets)
    probability = np.linspace(0.99990, 0.99999, side * side, dtype=np.float32).reshape(side, side)
    page = page_of(tmp_path, replace(plain, occlusion=replace(plain.occlusion, probability=probability, whole=0.9999)))
    assert "The scale spans at least 5 percentage points" in page.text
    assert "95.00 %" in page.text
    assert "Lowest: 99.99 %" in page.text
    assert "Highest: 100.00 %" in page.text


def test_a_class_that_is_not_first_with_nothing_hidden_is_compared_with_the_first(tmp_path, plain):
    """Otherwise, hiding would be blamed for what was so before."""
    found = plain.occlusion
    first = plain.top(plain.mean if found.hiding.views == "ten" else plain.votes[CENTRAL])[0]
    other = (first + 1) % len(plain.classes)
    always, once = np.full_like(found.first, first), np.full_like(found.first, first)
    once[0, 0] = other
    name = plain.named(first).short
    for firsts, text in (
        (always, f"At none of them does another class come first than {name}."),
        (once, f"At 1, another class comes first than {name}."),
    ):
        page = page_of(tmp_path, replace(plain, occlusion=replace(found, label=other, first=firsts)))
        assert f"With nothing hidden, {name} comes first." in page.text
        assert text in page.text
    page = page_of(tmp_path, replace(plain, occlusion=replace(found, label=first, first=always)))
    assert "comes first." not in page.text


def test_hiding_that_changes_nothing_is_said(tmp_path, plain):
    side = len(plain.occlusion.hiding.offsets)
    same = replace(plain.occlusion, probability=np.full((side, side), 0.5, np.float32), whole=0.5)
    assert "Hiding a part changes nothing" in page_of(tmp_path, replace(plain, occlusion=same)).text


def test_nets_of_different_kinds_have_their_own_paragraphs(tmp_path, of_variant):
    nets = replace(of_variant("two columns"), sha256="a" * 64), replace(of_variant("tanh"), sha256="b" * 64)
    page = page_of(tmp_path, *nets)
    assert re.search(r"act1: ReLU or tanh random-alexnet-64 \(a{8}\) ReLU keeps", page.text)
    assert re.search(r"random-alexnet-64 \(b{8}\) tanh squeezes", page.text)


def test_a_convolution_without_values_says_why(tmp_path, of_variant):
    text = page_of(tmp_path, of_variant("batch norm")).text
    assert "Without a figure: batch normalisation follows directly" in text
    assert "Without a figure" not in page_of(tmp_path, of_variant("no normalisation")).text
