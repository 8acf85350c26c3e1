"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Backend = Annotated[
    Literal["auto", "onnxruntime", "openvino"], typer.Option(help="auto: the faster one of those that are installed.")
]
TrustEngine = Annotated[
    bool, typer.Option("--trust-engine", help="Run an engine that was not built here, though engines are code.")
]
