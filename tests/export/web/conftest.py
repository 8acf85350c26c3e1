"""A headless Chromium for the tests of the page, started once, and the page of the bundled net in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.artifact import embedded_model, load_artifact
from alexnet_infer.commands.compare import example_photos
from alexnet_infer.export.web.runtime import read_runtime
from alexnet_infer.export.web.site import Site, write_site
from tests.chromium import BINARY, Chromium
from tests.export.web.ort import real_package
from tests.export.web.serving import FolderServer

READY = "document.getElementById('status').textContent == 'Ready.'"
PHOTOS = example_photos()


@dataclass
class Open:
    """The page in a browser. Each photo and switch adds one to `shown` when it has been drawn."""

    browser: Chromium
    shown: int = 0

    def act(self, script: str) -> None:
        """Run a script that changes the result, and wait for that."""
        self.browser.run(script)
        self.drawn()

    def drawn(self) -> None:
        self.shown += 1
        self.browser.wait(f"document.body.dataset.shown >= {self.shown}")
        self.shown = int(self.browser.run("document.body.dataset.shown"))

    def example(self, number: int) -> None:
        self.act(f"document.querySelectorAll('#examples button')[{number}].click()")

    def switch(self, selector: str) -> None:
        self.act(f"document.querySelector({selector!r}).click()")

    def text(self, selector: str) -> str:
        return self.browser.run(f"document.querySelector({selector!r}).textContent")

    @property
    def probabilities(self) -> np.ndarray:
        return np.array(self.browser.run("JSON.parse(document.body.dataset.probabilities)"))


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[Chromium]:
    if BINARY is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with Chromium(tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


@pytest.fixture(scope="session")
def folder(tmp_path_factory, browser) -> Path:
    folder = tmp_path_factory.mktemp("site")
    runtime = read_runtime(real_package())
    write_site(Site(artifact=load_artifact(embedded_model()), sha256="0" * 64, runtime=runtime, photos=PHOTOS), folder)
    return folder


@pytest.fixture(scope="session")
def server(folder) -> Iterator[FolderServer]:
    server = FolderServer(folder)
    yield server
    server.close()


@pytest.fixture
def page(browser, server) -> Iterator[Open]:
    """The page, ready. It must print no warning and ask no other server."""
    browser.resize(1400)
    browser.open(server.url)
    browser.wait(READY)
    yield Open(browser)
    assert browser.console == []
    assert {url for url in browser.requests if not url.startswith(("blob:", "data:", server.url))} == set()
