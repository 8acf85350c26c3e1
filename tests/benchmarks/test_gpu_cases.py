"""The cases that compare a GPU with the CPU: they pass on a GPU and detect mistakes.

The miniature in test_gpu.py tests that they pass if there is no mistake.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch
from torch import Tensor

from alexnet_infer.architecture import LRN
from benchmarks.gpu import cases
from benchmarks.gpu.cases import CASES, Outcome
from train.augment import Augment
from train.dropout import Dropout

CPU = torch.device("cpu")


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")  # PyTorch's compiler emits various warnings
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", CASES)
def test_a_gpu_computes_what_the_cpu_does(name):
    for outcome in CASES[name](torch.device("cuda")):
        assert outcome.passed, outcome


def failed(name: str) -> list[Outcome]:
    return [outcome for outcome in CASES[name](CPU) if not outcome.passed]


def test_a_wrong_lrn_constant_is_detected_in_every_type(monkeypatch):
    original = cases.lrn

    def wrong(x: Tensor, spec: LRN) -> Tensor:
        return original(x, spec if x.dtype == torch.float64 else replace(spec, alpha=1.01 * spec.alpha))

    monkeypatch.setattr(cases, "lrn", wrong)
    types = {outcome.name.rpartition(" ")[2] for outcome in failed("lrn_equals_float64")}
    assert types == {"float32", "bfloat16", "float16"}


def test_a_patch_shifted_by_one_pixel_is_detected(monkeypatch):
    original, calls = Augment.training, []

    def every_other_call_shifted(self, squares, *arguments) -> Tensor:
        calls.append(1)
        return original(self, squares.roll(len(calls) % 2, 1), *arguments)

    monkeypatch.setattr(Augment, "training", every_other_call_shifted)
    assert failed("augmentation_equals_the_cpus")


def test_a_different_dropout_mask_is_detected(monkeypatch):
    original, calls = Dropout.forward, []

    def with_other_keys(self, x: Tensor, keys: Tensor) -> Tensor:
        calls.append(1)
        return original(self, x, keys + len(calls) % 2)

    monkeypatch.setattr(Dropout, "forward", with_other_keys)
    assert failed("dropout_equals_the_cpus")


def test_diverging_weights_are_detected(monkeypatch):
    original = cases.trainer
    monkeypatch.setattr(
        cases, "trainer", lambda device, out, **options: original(device, out, seed=len(out.name), **options)
    )
    assert failed("a_fed_set_equals_a_resident_one"), "the two runs have different seeds here"


def test_an_outcome_with_nan_does_not_pass():
    assert not Outcome(name="", error=float("nan"), tolerance=1).passed
    assert not Outcome(name="", error=1.1, tolerance=1).passed
    assert Outcome(name="", error=0, tolerance=0).passed
