"""The server's metrics, in Prometheus's text format."""

from __future__ import annotations

from collections.abc import Callable

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Upper ends of the histograms' intervals, in seconds."""
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one app. They have a registry of their own, so that a process can have several apps."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)

        def make(kind: type, name: str, text: str, labels: tuple[str, ...] = (), **more: object) -> object:
            return kind(f"alexnet_infer_{name}", text, labels, registry=self._registry, **more)

        self._requests = make(Counter, "requests", "Requests, by route and HTTP status.", ("route", "status"))
        self._request_seconds = make(
            Histogram, "request_seconds", "From a request's headers to its answer.", ("route",), buckets=SECONDS
        )
        self._queue = make(Gauge, "queue_images", "Images that wait for a net.", ("model",))
        self._images = make(Counter, "images", "Images that a net has run on.", ("model",))
        self._batch = make(Histogram, "batch_images", "Images per call of a net.", ("model",), buckets=IMAGES)
        self._inference = make(
            Histogram, "inference_seconds", "A call of a net on a batch.", ("model",), buckets=SECONDS
        )
        self._decode = make(Histogram, "decode_seconds", "Decoding and rescaling a photo.", buckets=SECONDS)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request. Status 499: the client left before the answer."""
        self._requests.labels(route, status).inc()
        self._request_seconds.labels(route).observe(seconds)

    def batch(self, model: str, images: int, seconds: float) -> None:
        """Count a call of a net."""
        self._images.labels(model).inc(images)
        self._batch.labels(model).observe(images)
        self._inference.labels(model).observe(seconds)

    def decoded(self, seconds: float) -> None:
        """Count a photo that was decoded or refused."""
        self._decode.observe(seconds)

    def watch_queue(self, model: str, waiting: Callable[[], int]) -> None:
        """Report what `waiting` returns as the model's queue."""
        self._queue.labels(model).set_function(waiting)

    def text(self) -> bytes:
        """Return all metrics."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)
