"""The torch module against the spec and the NumPy reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch

from alexnet_infer.architecture import LRN, BatchNorm, Dropout
from alexnet_infer.artifact import Artifact
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.errors import SpecError
from alexnet_infer.presets import PRESETS, Variant, variant
from tests.nets import large_patches, random_artifact
from tests.train.toys import TINY
from train.model import AlexNet, LocalResponseNorm, initialise

SWITCHES = {
    "two columns": TINY,
    "one column": replace(TINY, columns=1),
    "LRN across columns": replace(TINY, lrn_columns=1),
    "tanh": replace(TINY, activation="tanh"),
    "batch norm": replace(TINY, normalization="batchnorm"),
    "no normalisation": replace(TINY, normalization="none"),
    "pool 2/2": replace(TINY, pool_size=2),
    "pool before LRN": replace(TINY, pool_first=True),
    "sixth convolution": replace(TINY, sixth_conv=16),
    "dropout first": replace(TINY, dropout_first=True),
}


def with_ceil(net: Variant):
    """Return `net` with Caffe's rounding of the last pooling window, and a patch size at which it matters."""
    architecture = replace(net, patch=58).build()
    operations = [structs.replace(o, ceil=True) if o.name.startswith("pool") else o for o in architecture.operations]
    return structs.replace(architecture, operations=tuple(operations))


@pytest.mark.parametrize("name", [*PRESETS, *SWITCHES])
def test_tensors_and_output_have_the_names_and_shapes_of_the_architecture(name):
    architecture = (SWITCHES.get(name) or variant(name)).build()
    with torch.device("meta"):
        model = AlexNet(architecture)
        logits = model.eval()(torch.empty(2, 3, architecture.patch, architecture.patch))
    shapes = {n: tuple(t.shape) for n, t in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert shapes == architecture.tensors
    assert list(shapes) == list(architecture.tensors)
    assert sum(p.numel() for p in model.parameters()) == architecture.parameters
    assert logits.shape == (2, architecture.classes)


@pytest.mark.parametrize("name", SWITCHES)
def test_the_logits_match_the_reference_for_every_switch(name):
    artifact = random_artifact(SWITCHES[name])
    model = AlexNet(artifact.manifest.architecture).double().eval()
    model.load_state_dict({n: torch.from_numpy(t) for n, t in artifact.tensors.items()}, strict=False)
    patches = large_patches(SWITCHES[name])
    expected = ReferenceBackend(artifact).logits(patches)
    logits = model(torch.from_numpy(patches).double()).detach().numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-9)


def test_pooling_windows_over_the_edge_agree_with_the_spec():
    architecture = with_ceil(TINY)
    maps = {step.operation.name: step.output for step in architecture.steps}
    assert maps["pool1"][1] == 28, "without ceil the last row of the 56 x 56 maps would be left out"
    with torch.device("meta"):
        x = torch.empty(1, 3, 58, 58)
        for name, module in AlexNet(architecture).eval().named_children():
            x = module(x)
            assert tuple(x.shape[1:]) == maps[name], name


def trained_like(unit: float, seed: int = 0) -> AlexNet:
    """Return a float64 net with activations in the hundreds of grey levels and large biases."""
    torch.manual_seed(seed)
    model = AlexNet(TINY.build(), unit).double()
    initialise(model, "he")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 20 / unit)
    return model.eval()


def test_a_net_in_other_units_converts_to_the_same_function():
    model, converted = trained_like(unit=16.0), AlexNet(TINY.build()).double().eval()
    tensors = {name: torch.from_numpy(t) for name, t in model.artifact_tensors().items()}
    converted.load_state_dict(tensors)
    patches = torch.from_numpy(large_patches(TINY, count=3)).double()
    model.load_state_dict({name: t.float().double() for name, t in model.state_dict().items()})  # artifacts are float32
    expected = model(patches)
    torch.testing.assert_close(converted(patches), expected, rtol=1e-9, atol=1e-9)
    for part in converted.modules():
        if isinstance(part, LocalResponseNorm):
            part.spec = structs.replace(part.spec, alpha=part.spec.alpha * 16)
    assert ((converted(patches) - expected).abs() > 0.01 * expected.abs()).any(), "LRN must have an effect"


def test_conversion_does_not_change_the_net_or_share_its_memory():
    model = trained_like(unit=1.0).float().to(memory_format=torch.channels_last)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    tensors = model.artifact_tensors()
    assert all(t.flags.c_contiguous and t.dtype == np.float32 for t in tensors.values())
    for tensor in tensors.values():
        tensor += 1
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_net_with_batch_norm_converts_to_an_artifact():
    model = AlexNet(replace(TINY, normalization="batchnorm").build())
    model(torch.randn(4, 3, 57, 57) * 50 + 10, torch.arange(4))
    manifest = random_artifact(replace(TINY, normalization="batchnorm")).manifest
    artifact = Artifact(manifest, model.artifact_tensors())
    assert np.abs(artifact.tensors["bn1.running_mean"]).max() > 0.01


@pytest.mark.parametrize("switch", ["tanh", "batch norm"])
def test_with_tanh_or_batch_norm_only_the_input_is_in_other_units(switch):
    """The net in units has the activations of a net without them for a patch that is divided by the unit."""
    torch.manual_seed(0)
    architecture = SWITCHES[switch].build()
    model, divided, converted = (AlexNet(architecture, unit).double().eval() for unit in (16.0, 1.0, 1.0))
    initialise(model, "he")
    divided.load_state_dict(model.state_dict())
    tensors = {name: torch.from_numpy(t) for name, t in model.artifact_tensors().items()}
    converted.load_state_dict(tensors, strict=False)
    own = model.state_dict()
    changed = {name for name, tensor in tensors.items() if not torch.equal(own[name].float(), tensor)}
    assert changed == {"conv1.weight"}
    model.load_state_dict({name: t.float().double() for name, t in model.state_dict().items()})
    patches = torch.from_numpy(large_patches(TINY, count=3)).double()
    torch.testing.assert_close(model(patches), divided(patches / 16))
    torch.testing.assert_close(converted(patches), model(patches), rtol=1e-9, atol=1e-9)


def test_a_net_that_begins_with_batch_norm_can_have_no_unit():
    architecture = SWITCHES["batch norm"].build()
    first, rest = BatchNorm(name="bn0"), architecture.operations
    with pytest.raises(SpecError, match="bn0: a net with tanh or batch norm that begins with it can't have a unit"):
        AlexNet(structs.replace(architecture, operations=(first, *rest)), unit=16.0)
    model = AlexNet(structs.replace(architecture, operations=(first, *rest)))
    assert model.artifact_tensors().keys() == model.architecture.tensors.keys()


def test_paper_initialisation_is_section_5():
    model = AlexNet(variant("alexnet-64").build())
    initialise(model, "paper")
    for name in ("conv1", "conv2", "conv5", "fc7", "fc8"):
        weight = getattr(model, name).weight
        assert weight.std().item() == pytest.approx(0.01, rel=0.05), name
        assert abs(weight.mean().item()) < 0.001, name
    biases = {name: set(m.bias.tolist()) for name, m in model.named_children() if hasattr(m, "bias")}
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    assert biases == {name: {1.0} if name in ones else {0.0} for name in biases}
    assert len(biases) == 8


def test_he_initialisation_follows_the_fan_in_of_a_column():
    model = AlexNet(variant("alexnet-64").build())
    initialise(model, "he")
    fan_in = {"conv1": 3 * 9, "conv2": 48 * 25, "conv3": 256 * 9, "conv4": 192 * 9, "conv5": 192 * 9, "fc7": 4096}
    for name, count in fan_in.items():
        assert getattr(model, name).weight.std().item() == pytest.approx((2 / count) ** 0.5, rel=0.05), name
    assert model.fc8.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert all(m.bias.abs().max() == 0 for m in model.children() if hasattr(m, "bias"))


@pytest.mark.parametrize("switch", ["two columns", "tanh", "batch norm"])
def test_initial_biases_are_the_same_in_every_unit(switch):
    models = [AlexNet(SWITCHES[switch].build(), unit) for unit in (1.0, 16.0)]
    for model in models:
        initialise(model, "paper")
    biases = [{n: t for n, t in m.artifact_tensors().items() if n.endswith("bias")} for m in models]
    for name, bias in biases[0].items():
        np.testing.assert_array_equal(bias, biases[1][name])


def test_dropout_acts_only_in_training():
    torch.manual_seed(0)
    model = AlexNet(TINY.build())
    initialise(model, "he")
    patches = torch.randn(2, 3, 57, 57) * 50
    assert [o.rate for o in TINY.build().operations if isinstance(o, Dropout)] == [0.5, 0.5]
    first, second = torch.tensor([1, 2]), torch.tensor([3, 4])
    assert not torch.equal(model.train()(patches, first), model(patches, second))
    assert torch.equal(model(patches, first), model(patches, first))
    assert torch.equal(model.eval()(patches), model(patches, first))


def test_lrn_layers_do_not_mix_columns():
    layers = [m for m in AlexNet(TINY.build()).modules() if isinstance(m, LocalResponseNorm)]
    specs = [o for o in TINY.build().operations if isinstance(o, LRN)]
    assert len(layers) == len(specs) == 2
    for layer in layers:
        x = torch.full((1, 16, 1, 1), 300.0, requires_grad=True)
        layer(x)[:, 7].sum().backward()
        assert x.grad[0, 8:].abs().max() == 0
        assert x.grad[0, 5:8].abs().min() > 0
