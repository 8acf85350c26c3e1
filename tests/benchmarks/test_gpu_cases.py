"""The cases that compare a GPU with the CPU: they hold on a GPU, and notice what is wrong.

That they pass where nothing is wrong is a part of the miniature (test_gpu.py).
"""

from __future__ import annotations

from dataclasses import replace

import pytest

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
@pytest.mark.filterwarnings("default")  # PyTorch's compiler warns of this and that
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", CASES)
def test_a_gpu_computes_what_the_cpu_does(name):
    for outcome in CASES[name](torch.device("cuda")):
        assert outcome.passed, outcome


def failed(name: str) -> list[Outcome]:
    return [outcome for outcome in CASES[name](CPU) if not outcome.passed]


def test_a_wrong_constant_of_lrn_is_noticed_in_every_type(monkeypatch):
    right = cases.lrn

    def wrong(x: Tensor, spec: LRN) -> Tensor:
        return right(x, spec if x.dtype == torch.float64 else replace(spec, alpha=1.01 * spec.alpha))

    monkeypatch.setattr(cases, "lrn", wrong)
    named = {outcome.what.rpartition(" ")[2] for outcome in failed("lrn_equals_float64")}
    assert named == {"float32", "bfloat16", "float16"}


def test_a_patch_that_is_off_by_one_pixel_is_noticed(monkeypatch):
    right, calls = Augment.training, []

    def every_other_call_shifted(self, squares, *arguments) -> Tensor:
        calls.append(1)
        return right(self, squares.roll(len(calls) % 2, 1), *arguments)

    monkeypatch.setattr(Augment, "training", every_other_call_shifted)
    assert failed("augmentation_equals_the_cpus")


def test_another_dropout_mask_is_noticed(monkeypatch):
    right, calls = Dropout.forward, []

    def another_salt(self, x: Tensor, keys: Tensor) -> Tensor:
        calls.append(1)
        return right(self, x, keys + len(calls) % 2)

    monkeypatch.setattr(Dropout, "forward", another_salt)
    assert failed("dropout_equals_the_cpus")


def test_weights_that_went_another_way_are_noticed(monkeypatch):
    right = cases.trainer
    monkeypatch.setattr(
        cases, "trainer", lambda device, out, **options: right(device, out, seed=len(out.name), **options)
    )
    assert failed("a_fed_set_equals_a_resident_one"), "the two runs have different seeds here"


def test_an_error_that_is_no_number_is_no_pass():
    assert not Outcome(what="", error=float("nan"), tolerance=1).passed
    assert not Outcome(what="", error=1.1, tolerance=1).passed
    assert Outcome(what="", error=0, tolerance=0).passed
