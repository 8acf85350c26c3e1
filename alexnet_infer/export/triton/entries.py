"""What is in each model's folder of a repository: the net and, for encoded images, two models around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from alexnet_infer.errors import UsageError
from alexnet_infer.export.triton.config import decode_config, ensemble_config, net_config
from alexnet_infer.export.triton.decode_model import ENCODED
from alexnet_infer.export.triton.measuring import ANALYZER, analyzer_of_ensemble, analyzer_of_net
from alexnet_infer.export.triton.readme import readme, readme_of_ensemble
from alexnet_infer.export.triton.served_model import ServedModel
from alexnet_infer.graph.info import FileViews

README = "README.md"

Input = Literal["squares", "jpeg"]
"""What the repository takes: the input of the exported file, or also encoded images, in any format that is read."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model of a repository."""

    name: str
    interface: Mapping[str, Any]
    """What all its versions have in common. It is also in the first line of the config."""
    config: str
    version: Mapping[str, Path | bytes]
    """The files of a version: name -> where it is, or its content."""
    labels: str | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    """The other files: name -> content."""


def check_input(input: Input, views: FileViews) -> None:
    """Raise UsageError unless a file with these views can be served with this input."""
    if input == "jpeg" and views == "none":
        raise UsageError("--input jpeg: the file must cut its views itself; add --views center or --views ten")


def net_entry(model: ServedModel) -> Entry:
    """Return the net."""
    return Entry(
        name=model.name,
        interface=model.interface,
        config=net_config(model),
        labels=model.labels,
        version={model.file_name: model.path, **{path.name: path for path in model.weights}},
        texts={README: readme(model), ANALYZER: analyzer_of_net(model)},
    )


def jpeg_entries(model: ServedModel) -> tuple[Entry, Entry]:
    """Return the model that decodes, and the ensemble of it and the net. The net takes squares."""
    name, interface = model.name, model.interface
    batch = {"batch": interface["batch"], "fixed": interface["fixed"]}
    decodes = {
        "backend": "python",
        "input": [ENCODED, "TYPE_STRING", [1]],
        "output": list(model.input),
        **batch,
        "resample": interface["resample"],
        "fit": interface["fit"],
    }
    decoder = Entry(
        name=f"{name}_decode",
        interface=decodes,
        config=decode_config(model, f"{name}_decode", decodes),
        version={"model.py": Path(__file__).with_name("decode_model.py")},
    )
    steps = {
        "backend": "ensemble",
        "input": decodes["input"],
        "classes": interface["classes"],
        **batch,
        "outputs": list(model.info.outputs),
        "steps": [decoder.name, name],
    }
    ensemble = Entry(
        name=f"{name}_jpeg",
        interface=steps,
        config=ensemble_config(model, f"{name}_jpeg", steps, decoder.name),
        labels=model.labels,
        version={".keep": b""},  # an ensemble has no files, and Git and object stores keep no empty folder
        texts={README: readme_of_ensemble(model), ANALYZER: analyzer_of_ensemble(model)},
    )
    return decoder, ensemble
