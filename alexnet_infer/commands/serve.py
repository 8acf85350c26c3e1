"""`alexnet-infer serve`: open the nets and answer requests until a signal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alexnet_infer.backends import Choice, Device
from alexnet_infer.nets import choose_nets, load
from alexnet_infer.output import say, tell
from alexnet_infer.predict import Ensemble
from alexnet_infer.preprocess import Views
from alexnet_infer.reading import PHOTOS_PER_CALL
from alexnet_infer.serve.app import create_app
from alexnet_infer.serve.limits import Limits
from alexnet_infer.serve.model import Model
from alexnet_infer.serve.run import LOOPBACK, bind, log_in_lines, serve, url_of

GPU_BATCH = 64
"""Images per call of a net on a GPU by default."""


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
    given = {key: value for key, value in limits.items() if value is not None}
    Limits(**given)
    listener = bind(host, port)
    with listener:
        paths = choose_nets([path for _, path in nets], ensemble)
        opened = [load(path, device=device, views=views, backend=backend, trust_engine=trust_engine) for path in paths]
        names = [name for name, _ in nets] or [None]
        if ensemble is None:
            models = [Model.of(net, name) for net, name in zip(opened, names, strict=True)]
        else:
            models = [Model.of(Ensemble(opened) if len(opened) > 1 else opened[0], names[0])]
        on_gpu = any(net.backend.device == "cuda" for net in opened)
        given = {"max_batch": GPU_BATCH if on_gpu else PHOTOS_PER_CALL} | given
        app = create_app(models, Limits(**given), workers=workers)
        app.state.server.start()
        log_in_lines()
        if host not in LOOPBACK:
            tell(f"note: --host {host} lets other machines use this server, and it asks for no password")

        def started() -> None:
            say(f"{url_of(listener)} serves {', '.join(model.name for model in models)}")

        return serve(app, listener, started)
