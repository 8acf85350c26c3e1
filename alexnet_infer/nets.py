"""Find trained nets by name, and choose the nets of a command."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from alexnet_infer.artifact import check_different, embedded_model
from alexnet_infer.backends import Choice, Device
from alexnet_infer.backends.opening import open_model
from alexnet_infer.backends.remote.address import FORMS, ServerAddress, Source, is_address
from alexnet_infer.errors import ModelFileError, UsageError, meant, shown
from alexnet_infer.files import is_file
from alexnet_infer.predict import Net
from alexnet_infer.preprocess import Views


class UnknownNetError(ModelFileError):
    """A name is neither that of a net nor that of a file."""


class NotPulledError(ModelFileError):
    """A published net has not been pulled."""

    def __init__(self, name: str, size: int) -> None:
        super().__init__(
            f"{name} is not on this machine yet: `alexnet-infer pull {name}` downloads it ({size / 1e6:.0f} MB)"
        )
        self.name = name


def find_net(model: str | Path) -> Path:
    """Return the path of a net, given as a path, as the name of a bundled net, or as the name of a pulled net.

    Anything with a suffix or a folder is a path, whether the file exists or not. Raises NotPulledError for a published
    net that has not been pulled, UnknownNetError for an unknown name, and UsageError for the address of a server.
    """
    path, name = Path(model), str(model)
    if is_address(name):
        raise UsageError(
            f"a server ({FORMS}) gives only probabilities: expected the name or the file of a net; classify, eval, "
            "compare and benchmark take servers"
        )
    if path.suffix or os.sep in name or is_file(path):
        return path
    bundled = {net.stem: net for net in nets_at_hand()}
    if name in bundled:
        return bundled[name]
    from alexnet_infer.published.cache import cached
    from alexnet_infer.published.registry import registry

    nets = registry()
    if name not in nets:
        raise UnknownNetError(
            f"{shown(name)} is neither a file nor the name of a net{meant(name, [*bundled, *nets])}; "
            "`alexnet-infer models` lists the nets"
        )
    published = nets[name]
    file = cached(published)
    if file is None:
        raise NotPulledError(name, published.size)
    return file


def find_source(model: str | Path | ServerAddress) -> Source:
    """Return the path of a net as `find_net` does, or for the address of a server what it says.

    Raises the errors of `find_net`, and UsageError if an address is invalid.
    """
    if not isinstance(model, ServerAddress):
        if not (isinstance(model, str) and is_address(model)):
            return find_net(model)
        model = ServerAddress.parse(model)
    return replace(model, manifest=find_net(model.manifest)) if model.manifest is not None else model


def nets_at_hand() -> list[Path]:
    """Return the paths of the bundled nets: first the default net, then the others sorted by name."""
    embedded = embedded_model()
    return [embedded, *sorted(path for path in embedded.parent.glob("*.safetensors") if path != embedded)]


def choose_nets(models: Sequence[Source], ensemble: int | None) -> list[Source]:
    """Return the nets to average: the first `ensemble` of `models`, or of the bundled nets if `models` is empty.

    Without a number, all of `models` are returned, or the default net if `models` is empty. Raises UsageError if there
    are fewer nets than `ensemble`, or if a net is named twice.
    """
    if ensemble is not None and ensemble < 1:
        raise UsageError(f"--ensemble {ensemble}: expected at least 1")
    available = list(models) or nets_at_hand()
    count = ensemble or len(models) or 1
    if count > len(available):
        names = ", ".join(path.name for path in available)
        raise UsageError(
            f"--ensemble {count}: expected at most {len(available)}, the number of nets available ({names}); name more "
            "model files"
        )
    chosen = available[:count]
    check_different((path, [str(path)]) for path in chosen)
    return chosen


def load(
    model: str | Path | ServerAddress | None = None,
    *,
    device: Device = "auto",
    views: Views | None = None,
    backend: Choice = "auto",
    trust_engine: bool = False,
    layers: Sequence[str] | None = None,
) -> Net:
    """Load a net, ready to classify.

    `model`: the name of a bundled net or of a pulled net, or the path of a model file, an exported .onnx file or an
    engine, or the address of a net on a server of the Open Inference Protocol, "http://localhost:8000/NAME" or
    "grpc://localhost:8001/NAME". If not given, the default bundled net is loaded.

    `views`: "ten" or "center". If not given, the views that an exported file averages itself, or else ten. `device`:
    "cpu", "cuda", or "auto" for a CUDA GPU if one works. `backend`: "onnxruntime", "openvino", "auto" for the faster
    installed one, or "reference", which computes in float64 and is slow. `trust_engine`: run an engine even if this
    user's cache has no record of building it. Engines are code.

    `layers`: what the net is to compute, for `Net.activations`: names that `alexnet-infer info` prints, "fc7:pre" for
    the value before the activation, "probabilities". If not given, what an exported file returns, or the probabilities.
    A net without the probabilities can't classify.

    Raises ModelFileError if the file can't be used, BackendError if the runtime or the device is missing, and
    UsageError for invalid values.
    """
    path = find_source(model) if model is not None else embedded_model()
    opened = open_model(
        path, device=device, backend=backend, trust_engine=trust_engine, views=views or "ten", outputs=layers
    )
    if opened.views and views not in (None, opened.views):
        if opened.address is not None:
            raise UsageError(f"{path}: the server averages views={opened.views}; leave out views={views}")
        raise UsageError(
            f"{path}: was exported with views={opened.views}; leave out views={views}, or export again with --views "
            f"{views}"
        )
    return Net(opened.manifest, opened.backend, opened.views or views or "ten", opened)
