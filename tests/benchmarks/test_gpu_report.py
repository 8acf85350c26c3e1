"""report.md: its verdicts and rows for complete, missing and failed results."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

from benchmarks.gpu import report
from benchmarks.gpu.cases import CASES
from benchmarks.gpu.report import CLAIMS, passed, quantity, rows, write_report


def stages(device: str = "cuda:0", error: str | None = None, **results: Any) -> dict[str, Any]:
    return {
        name: {
            "status": "failed" if error else "done",
            "error": error,
            "device": device,
            "seconds": 1.0,
            "results": result,
        }
        for name, result in results.items()
    }


CHECK, FAILED = {"passed": True, "error": 1e-6}, {"passed": False, "error": 1.0}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (stages(plugin={"kernel": {"norm1": CHECK, "norm2": CHECK}}), "verified"),
        (stages(plugin={"kernel": {"norm1": CHECK, "norm2": FAILED}}), "failed: plugin.kernel.norm2 failed"),
        (stages(plugin={"kernel": {"norm1": CHECK}}, error="reached its limit"), "failed: reached its limit"),
        (stages(plugin={"kernel": CHECK}, error="reached its limit"), "verified"),  # the check ended before the limit
        (stages(plugin={"kernel": {"norm1": FAILED}}, error="boom"), "failed: plugin.kernel.norm1 failed"),
        (stages(plugin={"kernel": "skipped: needs a GPU"}), "not run: needs a GPU"),
        (stages(plugin={"engine": CHECK}), "not run"),
        (stages(plugin={"kernel": {}}), "not run"),
        (stages(device="cpu", plugin={"kernel": {"norm1": CHECK}}), "not run"),
        (stages(machine={"kernel": CHECK}), "not run"),
        ({}, "not run"),
    ],
)
def test_a_verdict_is_verified_only_if_all_checks_ran_on_a_gpu_and_passed(entries, expected):
    assert passed("plugin.kernel")(entries) == expected


def test_every_claim_refers_to_results_that_its_stage_writes():
    """A key that no stage writes would always read "not run"."""
    everything = {
        "correctness": dict.fromkeys(CASES, CHECK),
        "layers": {f"{layer}, {dtype}": CHECK for layer in ("norm1", "norm2") for dtype in ("bfloat16", "float32")},
        "plugin": {"kernel": {"norm1": CHECK}, "engine": CHECK},
        "training": {"alexnet, 1024": {"eager": {}}},
        "inference": {"onnxruntime": CHECK, "tensorrt": CHECK},
        "nets": {"errors": {}},
    }
    entries = stages(**everything)
    assert {verdict(entries) for _, verdict in CLAIMS} == {"verified", "not run: needs two GPUs"}


def test_all_of_several_results_must_have_passed():
    entries = stages(plugin={"kernel": CHECK, "engine": FAILED})
    assert passed("plugin.kernel", "plugin.engine")(entries) == "failed: plugin.engine failed"
    assert passed("plugin")(entries) == "failed: plugin.engine failed"


def test_the_report_is_complete_although_results_are_missing(tmp_path):
    partial = stages(machine={"versions": {"torch": "2|3\n4"}, "ceilings": "skipped: x"})
    for entries in ({}, stages(machine={}), partial):
        (tmp_path / "results.json").write_text(json.dumps({"format": 1, "stages": entries}))
        text = write_report(tmp_path).read_text()
        assert all(f"| {claim} | not run" in text for claim, _ in report.CLAIMS)
        table = [line for line in text.splitlines() if line.startswith("|")]
        assert all(line.replace("\\|", "").count("|") in (3, 4, 5) for line in table)


def test_measured_values_are_compared_with_their_floors_and_ceilings():
    layer = {**CHECK, "images": 512, "parts": 2, "seconds": 3e-4, "floor": 2.5e-4, "over_floor": 1.2}
    net = {**CHECK, "difference": 2e-3, "images_per_second": {"32": 20_000.0}}
    entries = stages(
        machine={"ceilings": {"bf16": 800e12, "copy": 4.3e12}},
        plugin={"kernel": {"norm1 fp16": layer}},
        inference={"flop": 10e9, "torch": {"bf16": net}, "onnxruntime": "skipped: it has no CUDA support"},
    )
    table = {row[0].split(",")[0]: row[1:] for row in rows(entries)}
    assert table["copy on the device"] == ("4.3 TB/s", "", "")
    assert table["TensorRT plugin's kernel"] == ("300 us", "250 us, a copy of the same bytes", "1.20")
    assert table["ten views through torch"] == ("20,000 images/s", "80,000 images/s at the matrix rate", "25%")


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (4.312e12, "B/s", "4.31 TB/s"),
        (2.5e-3, "s", "2.5 ms"),
        (9.99e-5, "s", "99.9 us"),
        (1.5, "s", "1.5 s"),
        (None, "s", "not run"),
        ("skipped: x|y", "s", "skipped: x\\|y"),
    ],
)
def test_quantities_are_readable(value, unit, expected):
    assert quantity(value, unit) == expected
