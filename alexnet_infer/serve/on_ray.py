"""The same server on a Ray cluster: replicas of the app behind Ray Serve's proxies.

`app` is what Ray Serve calls an application builder, for its own command line and for configuration files:

    serve run alexnet_infer.serve.on_ray:app nets=alexnet-64-0,bvlc-alexnet replicas=2 cpus=8

Each replica opens the nets on its node, and has its own queue and batches. Nodes need the package, and the nets.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from alexnet_infer.backends import Choice, Device
from alexnet_infer.errors import BackendError, UsageError, listed, meant, one_line, shown
from alexnet_infer.nets import find_net
from alexnet_infer.preprocess import Views
from alexnet_infer.serve.app import create_app
from alexnet_infer.serve.limits import GRACE, Limits
from alexnet_infer.serve.opening import open_models, split_name

if TYPE_CHECKING:
    from ray.serve import Application
    from starlette.applications import Starlette

NAME = "alexnet-infer"
"""The deployment's name, under which a configuration file may change what Ray decides."""

REPLICA = b"x-alexnet-infer-replica"
"""The header that says which replica gave an answer."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Arguments of `app`. Those of the server mean the same as the options of `alexnet-infer serve`."""

    nets: tuple[str, ...] = ()
    ensemble: int | None = None
    views: Views | None = None
    device: Device = "auto"
    backend: Choice = "auto"
    workers: int | None = None
    limits: tuple[tuple[str, int | float], ...] = ()
    """The fields of `Limits` that are given, as pairs."""
    replicas: int = 1
    cpus: float = 1.0
    """Cores that Ray reserves for each replica. Its nets use all cores of their node, as they do without Ray."""
    gpus: float = 0.0
    """GPUs that Ray reserves for each replica."""

    def __post_init__(self) -> None:
        for name, low in {"replicas": 1, "cpus": 0, "gpus": 0}.items():
            if not low <= getattr(self, name) < 1e6:
                raise UsageError(f"{name}={getattr(self, name)}: expected at least {low}")

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Settings:
        """Return the settings from the arguments of a command line, which are text, or of a configuration file.

        `nets` is a list, or text with commas. Limits stand among the others. Raises UsageError.
        """
        limits = {field.name for field in fields(Limits)}
        known = {field.name for field in fields(cls)} - {"limits"} | limits
        for key in arguments:
            if key not in known:
                raise UsageError(
                    f"{shown(key)}: not an argument{meant(str(key), known)}; expected {listed(sorted(known))}"
                )
        own = {key: value for key, value in arguments.items() if key not in limits}
        if isinstance(own.get("nets"), str):
            own["nets"] = own["nets"].split(",")
        try:
            given = {key: getattr(_limits(arguments), key) for key in sorted(limits & arguments.keys())}
            return msgspec.convert({**own, "limits": list(given.items())}, cls, strict=False)
        except msgspec.ValidationError as error:
            raise UsageError(f"arguments {shown(dict(arguments))}: {one_line(error)}") from None


def _limits(arguments: Mapping[str, Any]) -> Limits:
    return msgspec.convert(dict(arguments), Limits, strict=False)


def app(arguments: dict[str, Any]) -> Application:
    """Return the application for Ray Serve. `arguments` are the fields of `Settings` and of `Limits`.

    Raises UsageError for a wrong argument, and BackendError if Ray Serve is not installed.
    """
    settings = Settings.of(arguments)
    serve = _import_serve()
    limits = Limits(**dict(settings.limits))

    def build() -> Callable[..., Awaitable[None]]:
        return _Named(_app_of(settings), serve.get_replica_context().replica_id.unique_id)

    deployment = serve.deployment(
        serve.ingress(build)(Replica),
        name=NAME,
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
        max_ongoing_requests=limits.queue,  # by default 5, which would be the largest batch
        graceful_shutdown_timeout_s=limits.timeout + GRACE,
    )
    return deployment.bind(settings)


class Replica:
    """What Ray Serve asks of a replica, beside answers to requests."""

    def __init__(self, settings: Settings) -> None:
        self._server = _app_of(settings).state.server

    def check_health(self) -> None:
        """Raise BackendError if a net fails, so that Ray starts another replica. One that drains is healthy."""
        for name in self._server.models:
            if not self._server.draining and (reason := self._server.unready(name)):
                raise BackendError(f"{name} is not ready: {reason}")


@cache
def _app_of(settings: Settings) -> Starlette:
    """Return the app of this process, in which there is one replica."""
    models = open_models(
        [(name, find_net(net)) for name, net in map(split_name, settings.nets)],
        ensemble=settings.ensemble,
        views=settings.views,
        device=settings.device,
        backend=settings.backend,
    )
    return create_app(models, Limits(**dict(settings.limits)), workers=settings.workers)


@dataclass(frozen=True)
class _Named:
    """An ASGI app that says in each answer which replica it is."""

    app: Callable[..., Awaitable[None]]
    replica: str

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_named(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (REPLICA, self.replica.encode())]
            await send(message)

        await self.app(scope, receive, send_named)


def _import_serve() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        from ray import serve
    except ImportError:
        raise BackendError('Ray Serve is missing: pip install "alexnet-infer[ray,serve]"') from None
    return serve
