"""The folder of a web page: its files, what the page is told, and what is not overwritten."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec.structs import replace

from alexnet_infer.artifact import Artifact
from alexnet_infer.errors import UsageError
from alexnet_infer.export.web import folder as folder_module
from alexnet_infer.export.web import site as site_module
from alexnet_infer.export.web.runtime import CDN, integrity_of, read_runtime
from alexnet_infer.export.web.site import SCRIPTS, Site, write_site
from alexnet_infer.manifest import ClassName
from alexnet_infer.preprocess import Preprocessing, patches
from alexnet_infer.version import __version__
from tests.export.web.ort import made_up_package
from tests.nets import TINY, random_artifact

PLAIN = {"index.html", "style.css", "net.json", "net.onnx", *SCRIPTS}
PAGE_FOLDER = Path(site_module.__file__).parent / "page"


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def made(folder: Path, artifact: Artifact | None = None, **options) -> Path:
    write_site(Site(artifact=artifact or random_artifact(), sha256="0" * 64, **options), folder)
    return folder


def told(folder: Path) -> dict:
    return json.loads((folder / "net.json").read_text())


class Page(HTMLParser):
    """The parts of a page that its policy is about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict, str]] = []
        self.handlers: list[str] = []
        self.policy, self._inside = "", False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.handlers += [name for name in given if name.startswith("on") or name == "style"]
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        if tag in ("script", "style"):
            self.scripts.append((given, ""))
            self._inside = True

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)

    def directive(self, name: str) -> list[str]:
        return next(part.split()[1:] for part in self.policy.split("; ") if part.split()[0] == name)


def test_without_the_runtime_the_page_takes_it_from_the_cdn(tmp_path):
    folder = made(tmp_path / "new" / "site")
    assert files(folder) == PLAIN
    runtime = told(folder)["runtime"]
    assert runtime["script"]["url"] == f"{CDN}ort.wasm.bundle.min.mjs"
    assert runtime["binary"]["url"] == f"{CDN}ort-wasm-simd-threaded.wasm"
    assert Page((folder / "index.html").read_text()).directive("connect-src") == ["'self'", CDN]


def test_with_the_runtime_the_page_needs_no_other_server(tmp_path, monkeypatch):
    runtime = read_runtime(made_up_package(tmp_path / "package", monkeypatch))
    folder = made(tmp_path / "site", runtime=runtime)
    copies = {"onnxruntime-web/ort.wasm.bundle.min.mjs", "onnxruntime-web/ort-wasm-simd-threaded.wasm"}
    assert files(folder) == PLAIN | copies | {"disk.html"}
    for part in ("script", "binary"):
        entry = told(folder)["runtime"][part]
        content = (folder / entry["url"]).read_bytes()
        assert (entry["integrity"], entry["bytes"]) == (integrity_of(content), len(content))
    assert "http" not in Page((folder / "index.html").read_text()).policy
    assert Page((folder / "index.html").read_text()).directive("connect-src") == ["'self'"]


def test_the_policy_allows_no_inline_script_and_the_page_has_none(tmp_path):
    page = Page((made(tmp_path / "site") / "index.html").read_text())
    assert page.directive("default-src") == ["'none'"]
    assert "unsafe-inline" not in page.policy
    assert "'unsafe-eval'" not in page.policy
    assert page.scripts == [({"type": "module", "src": "app.js"}, "")]
    assert page.handlers == []


def test_the_page_from_disk_holds_every_file_and_its_policy_names_its_own_script(tmp_path, monkeypatch):
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"not looked at")
    runtime = read_runtime(made_up_package(tmp_path / "package", monkeypatch))
    folder = made(tmp_path / "site", runtime=runtime, photos=[photo])
    page = Page((folder / "disk.html").read_text())
    held = {a["id"].removeprefix("file:"): base64.b64decode(text) for a, text in page.scripts if "id" in a}
    assert held == {name: (folder / name).read_bytes() for name in files(folder) - PLAIN - {"disk.html"}} | {
        name: (folder / name).read_bytes() for name in ("net.json", "net.onnx")
    }
    style, script = (text for attributes, text in page.scripts if "id" not in attributes)
    assert page.directive("script-src")[0] == f"'{integrity_of(script.encode())}'"
    assert page.directive("style-src") == [f"'{integrity_of(style.encode())}'"]
    assert page.directive("connect-src") == ["'none'"]
    assert not re.search(r"^(import|export) ", script, re.MULTILINE)


def test_a_net_that_is_too_large_for_one_page_gets_none(tmp_path, monkeypatch):
    monkeypatch.setattr(site_module, "MAX_ALONE", 10_000)
    runtime = read_runtime(made_up_package(tmp_path / "package", monkeypatch))
    assert "disk.html" not in files(made(tmp_path / "site", runtime=runtime))


def test_a_net_that_is_too_large_for_a_browser_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(site_module, "MAX_WEIGHTS", 10_000)
    with pytest.raises(UsageError, match=r"--web .* GB of weights"):
        made(tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_each_script_imports_only_scripts_before_it_and_no_two_define_the_same_name():
    """So that they can be joined into one."""
    defined: dict[str, str] = {}
    for i, name in enumerate(SCRIPTS):
        text = (PAGE_FOLDER / name).read_text("utf-8")
        assert text.startswith("// @ts-check\n")
        imported = re.findall(r'^import .* from "\./(.*)";$', text, re.MULTILINE)
        assert len(imported) == len(re.findall(r"^import\b", text, re.MULTILINE)), "an import takes one line"
        assert {*imported} <= {*SCRIPTS[:i]}
        names = re.findall(r"^(?:export )?(?:async )?(?:function|const|let|class) (\w+)", text, re.MULTILINE)
        names += re.findall(r"^(?:export )?const \[(.*?)\]", text, re.MULTILINE)
        assert not {*names} & {*defined}, name
        defined |= dict.fromkeys(names, name)
        assert "</script" not in text
    assert len(defined) > 20


def test_the_net_is_the_one_that_the_page_expects(tmp_path):
    folder = made(tmp_path / "site")
    content = (folder / "net.onnx").read_bytes()
    entry = told(folder)["net"]
    assert (entry["file"], entry["bytes"], entry["integrity"]) == ("net.onnx", len(content), integrity_of(content))
    outputs = [value.name for value in onnx.load_model_from_string(content).graph.output]
    assert [layer["name"] for layer in told(folder)["layers"]] == outputs
    assert outputs[-1] == "probabilities"


@pytest.mark.parametrize("per_pixel", [False, True])
def test_the_page_is_told_the_preprocessing_and_the_views_of_the_net(tmp_path, per_pixel):
    artifact = random_artifact()
    rng = np.random.default_rng(0)
    mean = rng.uniform(0, 255, (64, 64, 3)) if per_pixel else np.array([1.5, 2, 3])
    preprocessing = replace(artifact.manifest.preprocessing, mean=mean)
    data = told(
        made(tmp_path / "s", Artifact(replace(artifact.manifest, preprocessing=preprocessing), artifact.tensors))
    )
    fields = {k: v for k, v in data["preprocessing"].items() if k != "whole_pixels"}
    assert Preprocessing.from_json(fields).to_json() == preprocessing.to_json()
    square = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for view, patch in zip(data["views"], patches(square, preprocessing), strict=True):
        rows, columns = (slice(view[axis], view[axis] + 57) for axis in ("row", "column"))
        cut = (square.astype(np.float32) - preprocessing.mean)[rows, columns]
        np.testing.assert_array_equal((cut[:, ::-1] if view["mirrored"] else cut).transpose(2, 0, 1), patch)
    assert data["views"][data["center"]]["name"] == "central"


def test_every_layer_says_what_it_does_and_whether_its_columns_are_apart(tmp_path):
    layers = {layer["name"]: layer for layer in told(made(tmp_path / "site"))["layers"]}
    assert all(layer["about"].endswith((".", ").")) for layer in layers.values())
    assert layers["conv4"]["about"].startswith("Kernels of 3 x 3 slide over the maps of their own column")
    assert "ReLU" in layers["conv4"]["about"]
    assert [layers[name]["columns"] for name in ("conv1", "pool5", "fc6", "probabilities")] == [
        True,
        True,
        False,
        False,
    ]


def test_names_are_data_and_never_markup(tmp_path):
    artifact = random_artifact()
    hostile = "</script><img src=x onerror=alert(1)>"
    classes = tuple(ClassName(wnid=entry.wnid, name=hostile) for entry in artifact.manifest.classes)
    manifest = replace(artifact.manifest, name=hostile, classes=classes)
    folder = made(tmp_path / "site", Artifact(manifest, artifact.tensors))
    assert told(folder)["classes"] == [hostile] * 7
    for path in folder.iterdir():
        if path.suffix in (".html", ".js", ".css"):
            assert "onerror" not in path.read_text()


def test_the_page_explains_only_what_the_net_has(tmp_path):
    pages = {
        name: (made(tmp_path / name, random_artifact(spec)) / "index.html").read_text().replace("\n", " ")
        for name, spec in {
            "both": TINY,
            "no LRN": dataclasses.replace(TINY, normalization="none"),
            "one column": dataclasses.replace(TINY, columns=1),
            "neither": dataclasses.replace(TINY, columns=1, normalization="none"),
        }.items()
    }
    assert {name for name, page in pages.items() if "Without LRN" in page} == {"both", "one column"}
    assert {name for name, page in pages.items() if "With a column off" in page} == {"both", "no LRN"}
    assert {name for name, page in pages.items() if "What the switches do" in page} == pages.keys() - {"neither"}
    assert "conv2, conv4 and conv5 look at their own column only" in pages["both"]


def test_the_page_says_whether_weights_were_rounded(tmp_path):
    artifact = random_artifact()
    exact = Artifact(artifact.manifest, {name: t.astype(np.float16) for name, t in artifact.tensors.items()})
    rounded = "weights rounded to float16"
    assert rounded in (made(tmp_path / "a", artifact) / "index.html").read_text()
    assert rounded not in (made(tmp_path / "b", artifact, half=False) / "index.html").read_text()
    assert rounded not in (made(tmp_path / "c", exact) / "index.html").read_text()


def test_another_page_of_alexnet_infer_is_not_overwritten(tmp_path):
    page = f'<!doctype html><meta charset="utf-8"><meta name="generator" content="alexnet-infer {__version__} report">'
    for text in (page, page.replace(" report", "")):
        (tmp_path / "index.html").write_text(text)
        with pytest.raises(UsageError, match=r"--web .*index\.html was not written by alexnet-infer export --web"):
            made(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_files_of_an_earlier_net_that_this_one_does_not_have_are_removed_and_others_stay(tmp_path, monkeypatch):
    runtime = read_runtime(made_up_package(tmp_path / "package", monkeypatch))
    folder = made(tmp_path / "site", runtime=runtime)
    (folder / "onnxruntime-web" / "mine.txt").write_text("")
    (folder / "mine.txt").write_text("")
    made(folder)
    assert files(folder) == PLAIN | {"mine.txt", "onnxruntime-web/mine.txt"}
    (folder / "onnxruntime-web" / "mine.txt").unlink()
    made(folder, runtime=runtime)
    made(folder)
    assert not (folder / "onnxruntime-web").exists()


def test_the_page_is_the_last_file_and_what_it_is_told_the_one_before(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(folder_module, "write_atomically", lambda path, content: written.append(path.name))
    made(tmp_path / "site")
    assert len(written) == len(PLAIN)
    assert written[-2:] == ["net.json", "index.html"]


@pytest.mark.parametrize("empty", [False, True], ids=["new", "empty"])
def test_a_failure_leaves_no_part_of_a_page(tmp_path, monkeypatch, empty):
    def write(path: Path, content: bytes) -> None:
        if path.name == "index.html":
            raise OSError(28, "No space left on device")
        path.write_bytes(content)

    monkeypatch.setattr(folder_module, "write_atomically", write)
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"x")
    if empty:
        (tmp_path / "new").mkdir()
    with pytest.raises(UsageError, match=r"--web .*can't be written \(No space"):
        made(tmp_path / "new" / "site" if not empty else tmp_path / "new", photos=[photo])
    assert files(tmp_path) == {"a.jpg"}
    assert (tmp_path / "new").exists() == empty


@pytest.mark.parametrize("name", ["examples", "onnxruntime-web"])
def test_a_linked_folder_in_the_site_is_not_followed(tmp_path, monkeypatch, name):
    runtime = read_runtime(made_up_package(tmp_path / "package", monkeypatch))
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"x")
    folder = made(tmp_path / "site", runtime=runtime, photos=[photo])
    (tmp_path / "target").mkdir()
    shutil.rmtree(folder / name)
    (folder / name).symlink_to(tmp_path / "target")
    for options in ({"runtime": runtime}, {}):
        with pytest.raises(UsageError, match=f"--web .*{name} is a link"):
            made(folder, photos=[photo], **options)
    assert [*(tmp_path / "target").iterdir()] == []


def test_a_site_is_written_again_over_itself(tmp_path):
    folder = made(tmp_path / "site")
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    made(folder)
    assert {name: (folder / name).read_bytes() for name in files(folder)} == before


@pytest.mark.parametrize("name", ["index.html", "style.css", "app.js", "net.onnx", "examples"])
def test_files_of_something_else_are_not_overwritten(tmp_path, name):
    (tmp_path / name).write_text("<title>mine</title>")
    photo = tmp_path / "photos" / "a.jpg"
    photo.parent.mkdir()
    photo.write_bytes(b"x")
    with pytest.raises(UsageError, match=f"--web .*(its {name} (was not|is a)|expected an empty or new folder)"):
        made(tmp_path, photos=[photo])
    assert (tmp_path / name).read_text() == "<title>mine</title>"


def test_a_page_is_not_put_among_other_files(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / ".nojekyll").touch()  # as GitHub's pages have
    made(tmp_path / "pages")
    shutil.rmtree(tmp_path / "pages")
    with pytest.raises(UsageError, match=r"has holiday\.jpg and no index\.html of .*; expected an empty or new folder"):
        made(tmp_path)
    assert {*files(tmp_path)} == {"holiday.jpg"}


def test_a_file_and_a_link_to_nothing_are_no_folders(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "missing")
    for name, kind in (("file", "is not a folder"), ("link", "is a link to nothing")):
        with pytest.raises(UsageError, match=f"--web .*{name}: {kind}; remove it, or name another folder"):
            made(tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


def test_the_name_of_an_example_is_text_in_the_page_from_disk(tmp_path, monkeypatch):
    photo = tmp_path / '"><b>.jpg'
    photo.write_bytes(b"x")
    runtime = read_runtime(made_up_package(tmp_path / "package", monkeypatch))
    page = Page((made(tmp_path / "site", runtime=runtime, photos=[photo]) / "disk.html").read_text())
    assert 'file:examples/"><b>.jpg' in [attributes.get("id") for attributes, _ in page.scripts]


def test_a_folder_that_cant_be_written_is_a_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--web .*can't be written"):
        made(tmp_path / "file" / "site")
