"""What a server says of its model, checked against the manifest of the net."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from alexnet_infer.backends.remote.address import ServerAddress
from alexnet_infer.backends.remote.client import Client, Config, Metadata, Tensor
from alexnet_infer.errors import BackendError, ModelFileError, SpecError, UsageError, listed, shown
from alexnet_infer.graph.served import KEYS, ServedNet
from alexnet_infer.layers import PROBABILITIES
from alexnet_infer.manifest import Manifest
from alexnet_infer.preprocess import Views

LARGEST_REQUEST = 64
"""Images or patches per request if the server doesn't limit them."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A server's model, whose metadata fits the net's manifest."""

    manifest: Manifest
    served: ServedNet | None
    """What the server says of the net; None if the user said which manifest applies."""
    told: Mapping[str, str]
    """The parameters that say it, as they were sent."""
    views: Views | None
    """The views that the server cuts and averages; None if it takes patches."""
    source: Tensor
    output: Tensor
    size: int
    """The most images or patches per request."""
    fixed: bool
    """Whether every request must have `size` of them."""
    least: int
    """The number per request below which a batch isn't divided."""
    server: str
    """The server's name and version."""


def asking(address: ServerAddress, manifest: Manifest | None) -> Callable[[Client], Model]:
    """Return what asks the server about its model, and checks it."""

    def ask(client: Client) -> Model:
        server = client.server()
        metadata = client.metadata()
        if not client.ready():
            raise BackendError(f"{address}: the model is not ready: see the server's log, or try again later")
        return _model(address, manifest, server, metadata, client.config())

    return ask


def _model(
    address: ServerAddress, manifest: Manifest | None, server: str, metadata: Metadata, config: Config | None
) -> Model:
    if metadata.name != address.name:
        raise ModelFileError(f"{address}: the server describes another model, {shown(metadata.name)}")
    served = None if config is None else _served_net(config, address)
    if served is not None and address.manifest is not None:
        raise UsageError(f"{address}: the server itself says which net it is: leave out ?manifest={address.manifest}")
    if served is not None:
        manifest = served.manifest
    elif manifest is None:
        raise ModelFileError(
            f"{address}: the server doesn't say which classes and preprocessing the net has, since alexnet-infer "
            "didn't export it: name a trained net that has the same, as in ?manifest=NET after the address"
        )
    views = _views(address, manifest, served, _only(address, "input", metadata.inputs))
    first = metadata.inputs[0].shape[0]
    limits = [config.max_batch if config else 0, first, 0 if served is None else served.info.batch.max]
    return Model(
        manifest=manifest,
        served=served,
        told=told(config),
        views=views,
        source=metadata.inputs[0],
        output=_output(address, manifest, metadata.outputs),
        size=first if first > 0 else min([limit for limit in limits if limit > 0], default=LARGEST_REQUEST),
        fixed=first > 0,
        least=1 if served is None else served.info.batch.opt,
        server=server,
    )


def told(config: Config | None) -> dict[str, str]:
    """Return the parameters that say which net the server has. They are the same as long as the net is."""
    return {} if config is None else {key: config.parameters[key] for key in KEYS if key in config.parameters}


def _served_net(config: Config, address: ServerAddress) -> ServedNet | None:
    try:
        return ServedNet.from_parameters(config.parameters, str(address))
    except SpecError as error:
        raise ModelFileError(
            f"{error}: the server's configuration of the model is damaged, or of a newer version"
        ) from None


def _only(address: ServerAddress, what: str, tensors: Sequence[Tensor]) -> Tensor:
    if len(tensors) != 1:
        raise ModelFileError(
            f"{address}: has {len(tensors)} {what}s ({listed(tensor.name for tensor in tensors)}): expected one"
        )
    return tensors[0]


def _views(address: ServerAddress, manifest: Manifest, served: ServedNet | None, source: Tensor) -> Views | None:
    """Return the views that the server averages; None if it takes patches. Raises ModelFileError for another input."""
    size, patch = manifest.preprocessing.size, manifest.preprocessing.patch
    squares = source.datatype == "UINT8" and _fits(source.shape, (size, size, 3))
    patches = source.datatype == "FP32" and _fits(source.shape, (3, patch, patch))
    said = served and served.info.views
    if (squares, patches) not in ((True, False), (False, True)) or (said and squares == (said == "none")):
        takes = {"none": f"patches FP32 [N, 3, {patch}, {patch}]"}
        whole = f"squares UINT8 [N, {size}, {size}, 3]"
        expected = takes.get(said, whole) if said else f"{whole} or {takes['none']}"
        raise ModelFileError(
            f"{address}: takes {source}: expected {expected}, as the manifest of {shown(manifest.name)} says"
        )
    if patches and address.views is not None:
        raise UsageError(f"{address}: takes patches, so views are chosen here: use --views, not ?views=")
    if patches:
        return None
    if said and address.views not in (None, said):
        raise UsageError(f"{address}: the server averages views={said}: leave out ?views={address.views}")
    views = said or address.views
    if views is None:
        raise ModelFileError(
            f"{address}: takes squares and doesn't say which views it averages: add &views=ten or &views=center after "
            "the address"
        )
    return views


def _output(address: ServerAddress, manifest: Manifest, outputs: Sequence[Tensor]) -> Tensor:
    named = [tensor for tensor in outputs if tensor.name == PROBABILITIES]
    output = named[0] if named else _only(address, "output", outputs)
    classes = len(manifest.classes)
    if output.datatype != "FP32" or not _fits(output.shape, (classes,)):
        raise ModelFileError(
            f"{address}: returns {output}: expected FP32 [N, {classes}], a probability for each class of "
            f"{shown(manifest.name)}"
        )
    return output


def _fits(shape: Sequence[int], expected: Sequence[int]) -> bool:
    """Whether a tensor's shape, after the dimension of the batch, can be the expected one."""
    if len(shape) != len(expected) + 1 or not (shape[0] == -1 or 0 < shape[0] <= 65536):
        return False
    return all(own in (-1, its) for own, its in zip(shape[1:], expected, strict=True))
