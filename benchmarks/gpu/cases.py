"""What must be right on a GPU: each case compares it with the CPU, or with float64.

`pytest -m gpu` runs every case, and so does the stage `correctness`.
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
from torch import Tensor

from alexnet_infer.architecture import LRN
from alexnet_infer.presets import ALEXNET_64, PRESETS, Variant, variant
from benchmarks.gpu.context import SkippedError
from train.augment import Augment, ColorPCA, EpochPlan
from train.data import PackedImages
from train.device import exact_float32
from train.dropout import Dropout
from train.evaluate import count_correct, view_patches
from train.feed import Feed
from train.loop import Trainer
from train.lrn import lrn
from train.recipe import FAST, Recipe

CPU = torch.device("cpu")
CLASSES, IMAGES, STEPS = 5, 120, 10
SMALL: Variant = replace(ALEXNET_64, kernels=(16, 32, 16, 16, 16), hidden=32, classes=CLASSES)
"""Two columns, LRN, overlapping pooling and dropout, as the paper's net."""
RECIPE: Recipe = replace(FAST, name="check", epochs=2, batch=12, lr=0.01)
"""With `IMAGES` images: epochs of ten steps."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One comparison: the largest error found, and what it may be."""

    what: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """NaN is no pass."""
        return self.error <= self.tolerance


def distance(found: Tensor, expected: Tensor) -> float:
    """||found - expected|| / ||expected||, in float64 on the CPU."""
    expected = expected.double().cpu()
    return ((found.double().cpu() - expected).norm() / expected.norm()).item()


def lrn_layers() -> Iterator[tuple[LRN, tuple[int, ...]]]:
    """Every LRN layer of the presets: its spec and its maps' shape [C, H, W]. None twice."""
    seen = set()
    for name in PRESETS:
        for step in variant(name).build().steps:
            if isinstance(step.operation, LRN):
                spec = replace(step.operation, name="norm")
                if (spec, step.input) not in seen:
                    seen.add((spec, step.input))
                    yield spec, step.input


def lrn_equals_float64(device: torch.device) -> Iterator[Outcome]:
    """The layer and its gradient, of activations in the hundreds, where the sum outweighs k."""
    generator = torch.Generator().manual_seed(0)
    layers = {(spec.groups, spec.k, spec.alpha): (spec, shape) for spec, shape in lrn_layers()}
    for spec, shape in lrn_layers() if device.type == "cuda" else layers.values():
        for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 2e-3), (torch.float16, 3e-4)):
            x = (torch.randn(2, *shape, generator=generator) * 200).to(dtype)
            grad = torch.randn(x.shape, generator=generator).to(dtype)
            wide = x.double().requires_grad_()
            expected = lrn(wide, spec)
            expected_grad = torch.autograd.grad(expected, wide, grad.double())[0]
            there = x.to(device, memory_format=torch.channels_last).requires_grad_()
            found = lrn(there, spec)
            found_grad = torch.autograd.grad(found, there, grad.to(device))[0]
            name = f"{' x '.join(map(str, shape))}, groups {spec.groups}, {str(dtype).removeprefix('torch.')}"
            yield Outcome(what=f"forward, {name}", error=distance(found.detach(), expected), tolerance=tolerance)
            yield Outcome(what=f"backward, {name}", error=distance(found_grad, expected_grad), tolerance=tolerance)


def dropout_equals_the_cpus(device: torch.device) -> Iterator[Outcome]:
    """Which units are zero, and the others' values."""
    keys = torch.randint(-(2**63), 2**63 - 1, (64,), generator=torch.Generator().manual_seed(1))
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(64, 4096, generator=torch.Generator().manual_seed(2)).to(dtype)
        module = Dropout(0.5, salt=3)
        module.first_unit = 2048
        different = module(x.to(device), keys.to(device)).cpu() != module(x, keys)
        yield Outcome(what=str(dtype).removeprefix("torch."), error=different.sum().item(), tolerance=0)


def augmentation_equals_the_cpus(device: torch.device) -> Iterator[Outcome]:
    """Patches, of squares that are the batch and of squares in a larger set; exactly, but for the colour noise's own
    rounding."""
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
                    there = Augment(mean, pca, patch, sigma, device, dtype)
                    on_device = [tensor.to(device) for tensor in (squares, rows, index)]
                    found = there.training(on_device[0], plan.to(device), *on_device[1:]).cpu()
                    wanted = expected.to(dtype)
                    # A rounding of the noise may turn one of bfloat16's, whose step is one level from 128 on.
                    allowed = tolerance if dtype == torch.float32 else 1.0 if sigma else 0.0
                    error = (found.float() - wanted.float()).abs().max().item()
                    name = f"{patch} of {size}, mean [{'S, S, ' if mean.ndim == 3 else ''}3], noise {sigma}, {dtype}"
                    yield Outcome(what=name, error=error, tolerance=allowed)
        alone = [tensor.to(device) for tensor in (squares[index], rows)]
        quiet = Augment(mean, pca, patch, 0.0, device).training(alone[0], plan.to(device), alone[1])
        expected = Augment(mean, pca, patch, 0.0, CPU).training(squares, plan, rows, index)
        error = (quiet.cpu() - expected).abs().max().item()
        yield Outcome(what=f"{patch} of {size}, squares that are the batch", error=error, tolerance=0)


def views_equal_the_cpus(device: torch.device) -> Iterator[Outcome]:
    """The ten test patches, exactly."""
    squares = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8))
    mean = torch.tensor([100.7, 110.1, 120.3])
    found = view_patches(squares.to(device), mean.to(device), 57).cpu()
    yield Outcome(what="57 of 64", error=(found - view_patches(squares, mean, 57)).abs().max().item(), tolerance=0)


def images(count: int, seed: int, shards: int = 1, *, mapped: bool = False) -> PackedImages:
    """A set that can be learned: noise, brighter in a corner that depends on the label."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    pixels = rng.integers(0, 160, (count, 64, 64, 3))
    for label in range(CLASSES):
        pixels[labels == label, 12 * label : 12 * label + 12, :, label % 3] += 90
    whole = torch.from_numpy(pixels.astype(np.uint8))
    return PackedImages(whole.tensor_split(shards), torch.from_numpy(labels), mapped=mapped)


def trainer(device: torch.device, out: Path, **options: Any) -> Trainer:
    """In float32, from the same weights on every device."""
    settings = {"train": images(IMAGES, 0), "validation": images(40, 1), "precision": torch.float32} | options
    out.mkdir(exist_ok=True)
    return Trainer(SMALL.build(), RECIPE, out=out, device=device, **settings)


@contextmanager
def runs(device: torch.device) -> Iterator[Path]:
    """A folder for runs, and float32 that no convolution rounds to TF32."""
    with tempfile.TemporaryDirectory() as folder, exact_float32(device):
        yield Path(folder)


def advance(run: Trainer, steps: int) -> list[float]:
    """Trains so many steps of an epoch and returns their losses."""
    losses: list[float] = []
    plan = EpochPlan.draw(len(run.train), run.seed, run.state.epoch).to(run.device)
    for batch in islice(run._batches(plan), steps):
        run._queue(batch, plan, due=False, over=False)
        run._report(lambda report: losses.append(report.loss))
    return losses


def weights(run: Trainer) -> Tensor:
    """All of them, and the momentum, as float64 [values] on the CPU."""
    return torch.cat([tensor.detach().double().cpu().flatten() for tensor in run.saved.tensors().values()])


def drift(found: Trainer, expected: Trainer, start: Tensor) -> float:
    """The distance between two runs' weights, in units of the way that the second went."""
    return ((weights(found) - weights(expected)).norm() / (weights(expected) - start).norm()).item()


def same_runs(name: str, found: Trainer, expected: Trainer, start: Tensor, steps: int = STEPS) -> Iterator[Outcome]:
    """Both runs' next steps. The rounding of a last bit may change a maximum of pooling on the way, which moves the
    weights by some per cent; what is wrong changes the first losses."""
    losses = [torch.tensor(advance(run, steps)) for run in (found, expected)]
    first = [values[:2] for values in losses]
    yield Outcome(what=f"first losses{name}", error=distance(*first), tolerance=1e-5)
    yield Outcome(what=f"losses{name}", error=distance(*losses), tolerance=5e-3)
    yield Outcome(what=f"weights{name}", error=drift(found, expected, start), tolerance=0.1)


def ten_steps_equal_the_cpus(device: torch.device) -> Iterator[Outcome]:
    """Dropout, patches and colour noise included."""
    with runs(device) as folder:
        there, here = trainer(device, folder / "a"), trainer(CPU, folder / "b")
        start = weights(here)
        yield Outcome(what="weights before the first step", error=distance(weights(there), start), tolerance=0)
        yield from same_runs("", there, here, start)
        yield Outcome(what="ten-view errors", error=abs(_wrong(there) - _wrong(here)), tolerance=4)


def _wrong(run: Trainer) -> int:
    rows = torch.arange(len(run.validation))
    correct = count_correct(run.model, run.validation, rows, run.augment.mean, SMALL.patch, "ten")
    return len(run.validation) - correct["ten"][0]


def a_checkpoint_crosses_devices(device: torch.device) -> Iterator[Outcome]:
    """Saved there and loaded here, and the other way round: the same bits, and the same steps from there."""
    with runs(device) as folder:
        for name, first, second in (("to the CPU", device, CPU), ("from the CPU", CPU, device)):
            out = folder / name.split()[0]
            run = trainer(first, out)
            start = weights(run)
            advance(run, 5)
            run.save()
            resumed = trainer(second, out)
            found = (weights(resumed) != weights(run)).sum().item()
            yield Outcome(what=f"values that changed on the way {name}", error=found, tolerance=0)
            yield from same_runs(f" after {name}", resumed, run, start, 5)


def compiled_equals_eager(device: torch.device) -> Iterator[Outcome]:
    """Ten steps with `torch.compile` and ten without."""
    if device.type != "cuda":
        raise SkippedError("nothing is compiled on a CPU")
    with runs(device) as folder:
        compiled, eager = (trainer(device, folder / name, compile=name == "c") for name in ("c", "e"))
        start = weights(eager)
        yield from same_runs("", compiled, eager, start)
        yield Outcome(
            what="errors", error=abs(compiled.validation_error()[0] - eager.validation_error()[0]), tolerance=0.1
        )


def a_fed_set_equals_a_resident_one(device: torch.device) -> Iterator[Outcome]:
    """The same squares in the same order, and the same steps, whether the set is in the device's memory or read, by
    several threads, as it is needed."""
    with runs(device) as folder:
        resident, fed = (trainer(device, folder / name) for name in ("resident", "fed"))
        fed.train = Feed(images(IMAGES, 0, shards=7, mapped=True), device, share=0.0, readers=3)
        if not resident.train.resident or fed.train.resident:
            raise SkippedError("the device's memory is full")
        rows = torch.randint(IMAGES, (20, 16), generator=torch.Generator().manual_seed(0))
        pairs = zip(resident.train.batches(rows.to(resident.train.home)), fed.train.batches(rows), strict=True)
        different = sum((found != expected).sum().item() for expected, found in pairs)
        yield Outcome(what="values of squares that differ", error=different, tolerance=0)
        start = weights(resident)
        yield from same_runs("", fed, resident, start)


def no_step_waits_for_the_host(device: torch.device) -> Iterator[Outcome]:
    """Steps are queued without one synchronisation, in the working precision, eager and compiled, of a set on the GPU
    and of one that is fed."""
    if device.type != "cuda":
        raise SkippedError("a CPU has nothing to wait for")
    for compile, share in ((False, 1.0), (False, 0.0), (True, 0.0)):
        with runs(device) as folder:
            run = trainer(device, folder / "run", compile=compile, precision=None)
            run.train = Feed(images(IMAGES, 0, shards=7, mapped=True), device, share=share)
            plan = EpochPlan.draw(IMAGES, run.seed, 0).to(device)
            waited = ""
            with closing(run._batches(plan)) as batches:
                for batch in islice(batches, 3):  # the first ones compile and choose algorithms
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
            yield Outcome(what=name + waited, error=bool(waited), tolerance=0)


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
