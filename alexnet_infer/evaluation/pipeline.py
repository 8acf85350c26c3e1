"""From a labelled image set to predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from alexnet_infer.datasets import Example, LabelledImages
from alexnet_infer.decode import Squares
from alexnet_infer.evaluation.predictions import ImageRow, Predictions
from alexnet_infer.pipeline import Clock, run
from alexnet_infer.predict import Net, finite
from alexnet_infer.reading import Decoded


def predict(
    data: LabelledImages,
    positions: Sequence[int],
    nets: Sequence[tuple[Net, Predictions]],
    *,
    workers: int | None = None,
    clock: Clock | None = None,
    on_images: Callable[[int], None] = lambda count: None,
) -> None:
    """Complete the predictions of `nets` for the images at `positions` of `data`.

    Other arguments are those of `pipeline.run`. The probabilities of an unreadable image are zeros, and its row has the
    reason.
    """
    start = min(predictions.done for _, predictions in nets)
    run(
        data.at(positions[start:], "yield"),
        [_Prediction(*pair) for pair in nets],
        batch=nets[0][1].about.batch,
        workers=workers,
        clock=clock,
        on_images=on_images,
    )


class _Prediction(NamedTuple):
    """A net that predicts, and its predictions."""

    net: Net
    predictions: Predictions

    @property
    def done(self) -> int:
        return self.predictions.done

    def run(self, images: Sequence[Decoded[Example, Squares]], inputs: np.ndarray | None, clock: Clock) -> None:
        """Append the probabilities of the next images."""
        rows, readable = [_row(image) for image in images], [i for i, image in enumerate(images) if image.image]
        probabilities = np.zeros((len(rows), len(self.net.classes)), np.float32)
        if inputs is not None:
            with clock("net"):
                scores = self.net.mean_over_views(self.net.backend.infer(inputs), self.predictions.about.batch)
                self.net.check_unchanged()  # a row is kept under the digest of the net that was opened
            probabilities[readable] = finite(scores[: len(readable)], self.net.manifest.name)
        self.predictions.append(rows, probabilities)


def _row(decoded: Decoded[Example, Squares]) -> ImageRow:
    example, error = decoded.source, decoded.error
    return ImageRow(example.relative_name, example.label, error and error.reason)
