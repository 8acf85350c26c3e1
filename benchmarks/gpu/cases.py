"""Correctness cases for a GPU. Each case compares results with those of the CPU or with float64.

Both `pytest -m gpu` and the stage `correctness` run every case.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec import structs
from torch import Tensor

from alexnet_infer.architecture import LRN
from alexnet_infer.manifest import ClassName
from alexnet_infer.presets import ALEXNET_64, PRESETS, Variant, variant
from benchmarks.gpu.context import SkippedError
from train.augment import Augment, ColorPCA, EpochPlan
from train.data import PackedImages
from train.device import exact_float32
from train.dropout import Dropout
from train.evaluate import ModuleScorer, count_correct, view_patches
from train.feed import Feed
from train.loop import Trainer
from train.lrn import lrn
from train.parts import Sums
from train.recipe import FAST, Recipe

CPU = torch.device("cpu")
CLASSES, IMAGES, STEPS = 5, 120, 10
SMALL: Variant = replace(ALEXNET_64, kernels=(16, 32, 16, 16, 16), hidden=32, classes=CLASSES)
"""A net with two columns, LRN, overlapping pooling and dropout, like the paper's."""
RECIPE: Recipe = replace(FAST, name="check", epochs=2, batch=12, lr=0.01)
"""With `IMAGES` images, an epoch has ten steps."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One comparison: its name, the largest error, and the tolerance."""

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance. NaN does not pass."""
        return self.error <= self.tolerance


def distance(actual: Tensor, expected: Tensor) -> float:
    """Return ||actual - expected|| / ||expected||, computed in float64 on the CPU."""
    expected = expected.double().cpu()
    return ((actual.double().cpu() - expected).norm() / expected.norm()).item()


def lrn_layers() -> Iterator[tuple[LRN, tuple[int, ...]]]:
    """Yield the spec and map shape [C, H, W] of every distinct LRN layer of the presets."""
    seen = set()
    for name in PRESETS:
        for step in variant(name).build().steps:
            if isinstance(step.operation, LRN):
                spec = structs.replace(step.operation, name="norm")
                if (spec, step.input) not in seen:
                    seen.add((spec, step.input))
                    yield spec, step.input


def lrn_equals_float64(device: torch.device) -> Iterator[Outcome]:
    """The layer and its gradient for activations in the hundreds, where the sum outweighs k."""
    generator = torch.Generator().manual_seed(0)
    layers = {(spec.groups, spec.k, spec.alpha): (spec, shape) for spec, shape in lrn_layers()}
    for spec, shape in lrn_layers() if device.type == "cuda" else layers.values():
        for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 2e-3), (torch.float16, 3e-4)):
            x = (torch.randn(2, *shape, generator=generator) * 200).to(dtype)
            grad = torch.randn(x.shape, generator=generator).to(dtype)
            wide = x.double().requires_grad_()
            expected = lrn(wide, spec)
            expected_grad = torch.autograd.grad(expected, wide, grad.double())[0]
            on_device = x.to(device, memory_format=torch.channels_last).requires_grad_()
            actual = lrn(on_device, spec)
            actual_grad = torch.autograd.grad(actual, on_device, grad.to(device))[0]
            name = f"{' x '.join(map(str, shape))}, groups {spec.groups}, {str(dtype).removeprefix('torch.')}"
            yield Outcome(name=f"forward, {name}", error=distance(actual.detach(), expected), tolerance=tolerance)
            yield Outcome(name=f"backward, {name}", error=distance(actual_grad, expected_grad), tolerance=tolerance)


def dropout_equals_the_cpus(device: torch.device) -> Iterator[Outcome]:
    """The positions of the zeros and the values of the other units."""
    keys = torch.randint(-(2**63), 2**63 - 1, (64,), generator=torch.Generator().manual_seed(1))
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(64, 4096, generator=torch.Generator().manual_seed(2)).to(dtype)
        module = Dropout(0.5, salt=3)
        module.first_unit = 2048
        different = module(x.to(device), keys.to(device)).cpu() != module(x, keys)
        yield Outcome(name=str(dtype).removeprefix("torch."), error=different.sum().item(), tolerance=0)


def augmentation_equals_the_cpus(device: torch.device) -> Iterator[Outcome]:
    """Patches of squares in a batch, and in a larger set, are identical except for rounding of the colour noise."""
    rng = np.random.default_rng(0)
    pca = ColorPCA.from_covariance(np.array([[4000.0, 3000, 2000], [3000, 5000, 2500], [2000, 2500, 6000]]))
    for size, patch in ((64, 57), (256, 227)):
        squares = torch.from_numpy(rng.integers(0, 256, (12, size, size, 3), np.uint8))
        plan, rows = EpochPlan.draw(40, 0, 0), torch.tensor([3, 39, 17, 3, 0, 21, 8, 11])
        index = torch.tensor([11, 0, 5, 5, 7, 1, 2, 3])
        for mean in (np.float32([100.7, 110.1, 120.3]), rng.uniform(90, 130, (size, size, 3)).astype(np.float32)):
            for sigma, tolerance in ((0.0, 0.0), (0.1, 1e-4)):
                expected = Augment(mean, pca, patch, sigma, CPU).training(squares, plan, rows, index)
                for dtype in (torch.float32, torch.bfloat16):
                    augment = Augment(mean, pca, patch, sigma, device, dtype)
                    on_device = [tensor.to(device) for tensor in (squares, rows, index)]
                    actual = augment.training(on_device[0], plan.to(device), *on_device[1:]).cpu()
                    # Rounding of the noise may change the rounding to bfloat16, whose step is one level from 128 on.
                    allowed = tolerance if dtype == torch.float32 else 1.0 if sigma else 0.0
                    error = (actual.float() - expected.to(dtype).float()).abs().max().item()
                    name = f"{patch} of {size}, mean [{'S, S, ' if mean.ndim == 3 else ''}3], noise {sigma}, {dtype}"
                    yield Outcome(name=name, error=error, tolerance=allowed)
        batch = [tensor.to(device) for tensor in (squares[index], rows)]
        actual = Augment(mean, pca, patch, 0.0, device).training(batch[0], plan.to(device), batch[1])
        expected = Augment(mean, pca, patch, 0.0, CPU).training(squares, plan, rows, index)
        error = (actual.cpu() - expected).abs().max().item()
        yield Outcome(name=f"{patch} of {size}, squares of a batch", error=error, tolerance=0)


def views_equal_the_cpus(device: torch.device) -> Iterator[Outcome]:
    """The ten test patches are identical."""
    squares = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8))
    mean = torch.tensor([100.7, 110.1, 120.3])
    actual = view_patches(squares.to(device), mean.to(device), 57).cpu()
    yield Outcome(name="57 of 64", error=(actual - view_patches(squares, mean, 57)).abs().max().item(), tolerance=0)


def images(count: int, seed: int, shards: int = 1, *, mapped: bool = False) -> PackedImages:
    """Return a learnable set: noise, brighter in rows and a channel that depend on the label."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    pixels = rng.integers(0, 160, (count, 64, 64, 3))
    for label in range(CLASSES):
        pixels[labels == label, 12 * label : 12 * label + 12, :, label % 3] += 90
    squares = pixels.astype(np.uint8)
    whole = PackedImages.of(squares, labels, Sums.of(squares))
    return replace(whole, shards=whole.shards[0].tensor_split(shards), mapped=mapped)


def trainer(device: torch.device, out: Path, **options: Any) -> Trainer:
    """Return a trainer in float32 that starts from the same weights on every device."""
    classes = [ClassName(wnid=f"n{i:08}", name=f"class {i}") for i in range(CLASSES)]
    sets = {"train": images(IMAGES, 0), "validation": images(40, 1), "classes": classes}
    settings = sets | {"precision": torch.float32} | options
    out.mkdir(exist_ok=True)
    return Trainer(SMALL.build(), RECIPE, out=out, device=device, **settings)


@contextmanager
def runs(device: torch.device) -> Iterator[Path]:
    """Yield a folder for runs. Inside the block, no convolution rounds float32 to TF32."""
    with tempfile.TemporaryDirectory() as folder, exact_float32(device):
        yield Path(folder)


def advance(run: Trainer, steps: int) -> list[float]:
    """Train `steps` steps of an epoch and return their losses."""
    losses: list[float] = []
    plan = EpochPlan.draw(len(run.train), run.seed, run.state.epoch).to(run.device)
    for batch in islice(run._batches(plan), steps):
        run._queue(batch, plan, due=False, over=False)
        run._report(lambda report: losses.append(report.loss))
    return losses


def weights(run: Trainer) -> Tensor:
    """Return all weights and their momentum as one vector, float64 on the CPU."""
    return torch.cat([tensor.detach().double().cpu().flatten() for tensor in run.saved.tensors().values()])


def drift(actual: Trainer, expected: Trainer, start: Tensor) -> float:
    """Return the distance between two runs' weights, relative to the second run's distance from `start`."""
    return ((weights(actual) - weights(expected)).norm() / (weights(expected) - start).norm()).item()


def same_runs(name: str, actual: Trainer, expected: Trainer, start: Tensor, steps: int = STEPS) -> Iterator[Outcome]:
    """Compare the next `steps` steps of two runs.

    A rounding difference in the last bit may change which value is the maximum in a pooling window, and that moves the
    weights by a few per cent. A mistake changes the first losses.
    """
    losses = [torch.tensor(advance(run, steps)) for run in (actual, expected)]
    first = [values[:2] for values in losses]
    yield Outcome(name=f"first losses{name}", error=distance(*first), tolerance=1e-5)
    yield Outcome(name=f"losses{name}", error=distance(*losses), tolerance=5e-3)
    yield Outcome(name=f"weights{name}", error=drift(actual, expected, start), tolerance=0.1)


def ten_steps_equal_the_cpus(device: torch.device) -> Iterator[Outcome]:
    """Ten training steps, including dropout, random patches and colour noise."""
    with runs(device) as folder:
        on_device, on_cpu = trainer(device, folder / "a"), trainer(CPU, folder / "b")
        start = weights(on_cpu)
        yield Outcome(name="weights before the first step", error=distance(weights(on_device), start), tolerance=0)
        yield from same_runs("", on_device, on_cpu, start)
        yield Outcome(name="ten-view errors", error=abs(_wrong(on_device) - _wrong(on_cpu)), tolerance=4)


def _wrong(run: Trainer) -> int:
    scorer = ModuleScorer(run.model, run.augment.mean, SMALL.patch, "ten")
    correct = count_correct(scorer, run.validation, torch.arange(len(run.validation)))
    return len(run.validation) - correct["ten"][0]


def a_checkpoint_crosses_devices(device: torch.device) -> Iterator[Outcome]:
    """A checkpoint saved on one device and loaded on the other has the same bits and continues with the same steps."""
    with runs(device) as folder:
        for name, first, second in (("to the CPU", device, CPU), ("from the CPU", CPU, device)):
            out = folder / name.split()[0]
            run = trainer(first, out)
            start = weights(run)
            advance(run, 5)
            run.save()
            resumed = trainer(second, out)
            changed = (weights(resumed) != weights(run)).sum().item()
            yield Outcome(name=f"values that changed on the way {name}", error=changed, tolerance=0)
            yield from same_runs(f" after {name}", resumed, run, start, 5)


def compiled_equals_eager(device: torch.device) -> Iterator[Outcome]:
    """Ten steps with `torch.compile` and ten without."""
    if device.type != "cuda":
        raise SkippedError("training is not compiled on a CPU")
    with runs(device) as folder:
        compiled, eager = (trainer(device, folder / name, compile=name == "c") for name in ("c", "e"))
        start = weights(eager)
        yield from same_runs("", compiled, eager, start)
        yield Outcome(
            name="errors", error=abs(compiled.validation_error()[0] - eager.validation_error()[0]), tolerance=0.1
        )


def a_fed_set_equals_a_resident_one(device: torch.device) -> Iterator[Outcome]:
    """A set in the device's memory and one that several threads read as needed give the same squares and steps."""
    with runs(device) as folder:
        resident, fed = (trainer(device, folder / name) for name in ("resident", "fed"))
        fed.train = Feed(images(IMAGES, 0, shards=7, mapped=True), device, share=0.0)
        if not resident.train.resident or fed.train.resident:
            raise SkippedError("the device's memory is full")
        rows = torch.randint(IMAGES, (20, 16), generator=torch.Generator().manual_seed(0))
        pairs = zip(resident.train.batches(rows.to(resident.train.home)), fed.train.batches(rows), strict=True)
        different = sum((actual != expected).sum().item() for expected, actual in pairs)
        yield Outcome(name="values of squares that differ", error=different, tolerance=0)
        start = weights(resident)
        yield from same_runs("", fed, resident, start)


def no_step_waits_for_the_host(device: torch.device) -> Iterator[Outcome]:
    """Steps are queued without any synchronisation: in the working precision, eager and compiled, resident and fed."""
    if device.type != "cuda":
        raise SkippedError("a CPU does not queue steps")
    for compile, share in ((False, 1.0), (False, 0.0), (True, 0.0)):
        with runs(device) as folder:
            run = trainer(device, folder / "run", compile=compile, precision=None)
            run.train = Feed(images(IMAGES, 0, shards=7, mapped=True), device, share=share)
            plan = EpochPlan.draw(IMAGES, run.seed, 0).to(device)
            waited = ""
            with closing(run._batches(plan)) as batches:
                for batch in islice(batches, 3):  # the first steps compile and choose algorithms
                    run._queue(batch, plan, due=False, over=False)
                torch.cuda.synchronize(device)
                torch.cuda.set_sync_debug_mode("error")
                try:
                    for batch in batches:
                        run._queue(batch, plan, due=False, over=False)
                except RuntimeError as error:
                    waited = f": {error}"
                finally:
                    torch.cuda.set_sync_debug_mode("default")
            name = f"{'compiled' if compile else 'eager'}, {'resident' if share else 'fed'}"
            yield Outcome(name=name + waited, error=bool(waited), tolerance=0)


CASES: dict[str, Callable[[torch.device], Iterator[Outcome]]] = {
    case.__name__: case
    for case in (
        lrn_equals_float64,
        dropout_equals_the_cpus,
        augmentation_equals_the_cpus,
        views_equal_the_cpus,
        ten_steps_equal_the_cpus,
        a_checkpoint_crosses_devices,
        a_fed_set_equals_a_resident_one,
        compiled_equals_eager,
        no_step_waits_for_the_host,
    )
}
