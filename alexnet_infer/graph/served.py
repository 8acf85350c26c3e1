"""What a server says of a net that it serves: the parameters in its model's configuration.

They are in Triton's model configuration (`config.pbtxt`) and in the answer of `GET /v2/models/NAME/config`, each as
`{"string_value": TEXT}`. The keys of the manifest and the export info are those of an ONNX file's metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alexnet_infer.errors import SpecError, shown
from alexnet_infer.graph.info import EXPORT_KEY, ExportInfo
from alexnet_infer.manifest import METADATA_KEY, Manifest

SHA256_KEY = "alexnet_infer_sha256"
BACKEND_KEY = "alexnet_infer_backend"
KEYS = (METADATA_KEY, EXPORT_KEY, SHA256_KEY, BACKEND_KEY)


@dataclass(frozen=True, kw_only=True)
class ServedNet:
    """A net on a server, or the mean of several."""

    manifest: Manifest
    info: ExportInfo
    """What the server's model takes and returns. Its members are the nets that the server averages."""
    sha256: str | None = None
    """A digest of what computes the probabilities: it changes if they may. None if the server can't promise that."""
    backend: str | None = None
    """What runs the net on the server, for display."""

    def parameters(self) -> dict[str, str]:
        """Return the parameters. `from_parameters` restores the object exactly."""
        optional = {SHA256_KEY: self.sha256, BACKEND_KEY: self.backend}
        return {
            METADATA_KEY: self.manifest.to_json(),
            EXPORT_KEY: self.info.to_json(),
            **{key: value for key, value in optional.items() if value is not None},
        }

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str], where: str) -> ServedNet | None:
        """Inverse of `parameters`. Other parameters are ignored. None if there is no manifest, as for other models.

        Raises SpecError, which starts with `where`, if one is invalid or contradicts another.
        """
        if METADATA_KEY not in parameters:
            return None
        if EXPORT_KEY not in parameters:
            raise SpecError(f"{where}: has {METADATA_KEY} without {EXPORT_KEY}; expected both")
        sha256 = parameters.get(SHA256_KEY)
        if sha256 is not None and not (len(sha256) == 64 and {*sha256} <= {*"0123456789abcdef"}):
            raise SpecError(f"{where}: {SHA256_KEY}={shown(sha256)}: expected 64 hexadecimal digits")
        return cls(
            manifest=Manifest.from_json(parameters[METADATA_KEY], f"{where}: {METADATA_KEY}"),
            info=ExportInfo.from_json(parameters[EXPORT_KEY], f"{where}: {EXPORT_KEY}"),
            sha256=sha256,
            backend=parameters.get(BACKEND_KEY),
        )
