"""Fixtures for the tests of the page."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from alexnet_infer.explain.measure import Explained
from tests.explain.explained import explained, net


@pytest.fixture(scope="session")
def of_variant(tmp_path_factory) -> Callable[[str], Explained]:
    """Return what the net of a name in VARIANTS computes. Each is run once."""
    return functools.cache(lambda variant: explained(tmp_path_factory.mktemp("explained"), net(variant)))
