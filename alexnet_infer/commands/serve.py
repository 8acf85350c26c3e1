"""`alexnet-infer serve`: open the nets and answer requests until a signal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alexnet_infer.backends import Choice, Device
from alexnet_infer.output import say, tell
from alexnet_infer.preprocess import Views
from alexnet_infer.serve.app import create_app
from alexnet_infer.serve.limits import Limits
from alexnet_infer.serve.opening import open_models
from alexnet_infer.serve.run import bind, is_local, log_in_lines, serve, url_of


def run(
    nets: Sequence[tuple[str | None, Path]],
    *,
    ensemble: int | None,
    views: Views | None,
    host: str,
    port: int,
    limits: dict[str, int | float | None],
    device: Device,
    backend: Choice,
    trust_engine: bool,
    workers: int | None,
) -> int:
    """Serve nets, each under its name in `nets` if it has one, or the mean of `ensemble` of them as one model.

    `limits` are the fields of `Limits`; None stands for a default. Returns the exit code.
    """
    checked = Limits(**{key: value for key, value in limits.items() if value is not None})
    listener = bind(host, port)
    with listener:
        models = open_models(
            nets, ensemble=ensemble, views=views, device=device, backend=backend, trust_engine=trust_engine
        )
        app = create_app(models, checked, workers=workers)
        app.state.server.start()
        log_in_lines()
        if not is_local(listener):
            tell(f"note: --host {host} lets other machines use this server, and it asks for no password")

        def started() -> None:
            say(f"{url_of(listener)} serves {', '.join(model.name for model in models)}")

        return serve(app, listener, started)
