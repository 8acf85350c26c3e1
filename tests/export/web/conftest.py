"""A headless Chromium for the tests of the page, started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chromium import BINARY, Chromium


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[Chromium]:
    if BINARY is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with Chromium(tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium
