"""The values of layers, against PyTorch's forward hooks."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch

from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.layers import PROBABILITIES, all_layers
from tests.nets import large_patches, random_artifact
from tests.train.test_model import SWITCHES
from train.model import AlexNet


@pytest.mark.parametrize("name", SWITCHES)
def test_every_layer_has_the_values_that_a_hook_on_the_module_sees(name):
    """A hook on the module of an operation sees the operation's output, whatever names the layer has."""
    artifact = random_artifact(SWITCHES[name])
    layers = [layer for layer in all_layers(artifact.manifest.architecture) if layer.name != PROBABILITIES]
    model = AlexNet(artifact.manifest.architecture).double().eval()
    model.load_state_dict({n: torch.from_numpy(t) for n, t in artifact.tensors.items()}, strict=False)
    seen: dict[str, np.ndarray] = {}

    def keep(operation: str) -> None:
        def hook(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
            seen[operation] = output.detach().numpy().copy()  # a module after it may work in place

        model.get_submodule(operation).register_forward_hook(hook)

    for operation in {layer.operation for layer in layers}:
        keep(operation)
    patches = large_patches(SWITCHES[name])
    model(torch.from_numpy(patches).double())
    values = ReferenceBackend(artifact, [layer.name for layer in layers]).activations(patches)
    assert len(values) == len(layers) > 10
    for layer in layers:
        expected = seen[layer.operation]
        assert expected.shape == (len(patches), *layer.shape)
        assert expected.std() > 0
        np.testing.assert_allclose(values[layer.name], expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_before_relu_there_are_negative_values_and_after_it_none():
    artifact = random_artifact(SWITCHES["two columns"])
    before, after = (
        ReferenceBackend(artifact, [name]).activations(large_patches(SWITCHES["two columns"]))[name]
        for name in ("fc6:pre", "fc6")
    )
    assert (before < 0).any()
    np.testing.assert_array_equal(after, np.maximum(before, 0))
