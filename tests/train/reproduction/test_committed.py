"""The results and the page that are committed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from alexnet_infer.artifact import load_manifest
from tests.train.reproduction.made import PLAN
from train.reproduction.page import page
from train.reproduction.plan import Mean, Training
from train.reproduction.publish import every_result
from train.reproduction.record import Records
from train.reproduction.rows import Results

MODELS = Path(__file__).parents[3] / "models"
RESULTS = Results(PLAN, Records(MODELS / "reproduction"))


def test_the_page_is_what_the_results_give():
    text = (MODELS / "REPRODUCTION.md").read_text(encoding="utf-8")
    pictures = {path: caption for caption, path in re.findall(r"^!\[(.*)\]\((.*)\)$", text, re.M)}
    assert all((MODELS / path).is_file() for path in pictures)
    assert page(PLAN, every_result(PLAN, RESULTS), pictures) == text, "write it with python -m train reproduce --page"


def test_every_result_is_that_of_a_run_with_its_present_settings():
    for path in sorted(RESULTS.records.folder.rglob("*.json")):
        scale, name = path.parent.name, path.stem
        run, number = name.rsplit("-", 1)
        task = Mean(scale) if name.startswith("mean-of") else Training(scale, run, int(number))
        assert RESULTS.result(task) is not None, path


@pytest.mark.parametrize("seed", range(5))
def test_results_of_the_bundled_nets_are_the_errors_in_their_files(seed):
    result = RESULTS.result(Training("bundled", "paper", seed))
    assert result is not None
    for error in load_manifest(PLAN.net_file(Training("bundled", "paper", seed))).provenance.errors:
        assert result.wrong(error.views).sum(0).tolist() == [error.top1, error.top5]
