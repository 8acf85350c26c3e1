"""From a set to predictions: the same numbers as one image at a time, independent of the other images in a batch."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.datasets import open_images
from alexnet_infer.decode import read_square
from alexnet_infer.evaluation.pipeline import predict
from alexnet_infer.pipeline import AHEAD, STAGES, Clock
from alexnet_infer.predict import Net
from alexnet_infer.preprocess import Rescaling, patches
from tests.datasets.mini import jpeg
from tests.evaluation.toys import about, lookup_net, opened, save_net, write_greys, write_set

BATCH = 4
LABELS = [0, 5, 3, 2, 1, 4, 0, 1, 2, 5]
TABLE = np.random.default_rng(0).dirichlet(np.ones(6), len(LABELS)).astype(np.float32)


def predicted(root: Path, cache: Path, net: Net, positions: Sequence[int] | None = None, **options):
    """(rows, probabilities) of the images of the set in `root`."""
    data = open_images(root)
    positions = range(len(data)) if positions is None else positions
    predictions = opened(cache, about(len(positions), batch=BATCH), data.listed(positions))
    predict(data, positions, [(net, predictions)], **options)
    predictions.close()
    ((rows, values),) = predictions.chunks()
    return rows, values


@pytest.fixture
def greys(tmp_path: Path) -> Path:
    return write_greys(tmp_path / "greys", LABELS)


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> tuple[Net, Path]:
    """A net on a runtime, and a set."""
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    from alexnet_infer.nets import load

    folder = tmp_path_factory.mktemp("real")
    return load(save_net(folder / "net.safetensors"), device="cpu"), write_set(folder / "set", 18)


@pytest.mark.parametrize("workers", [None, 1, 7])
def test_every_image_gets_its_label_and_its_own_row(greys, tmp_path, workers):
    rows, values = predicted(greys, tmp_path, lookup_net(TABLE), workers=workers)
    assert [(row.name, row.label, row.error) for row in rows] == [
        (f"{i:03}.png", label, None) for i, label in enumerate(LABELS, start=1)
    ]
    np.testing.assert_allclose(values, TABLE, atol=1e-7)


def test_positions_choose_the_images(greys, tmp_path):
    chosen = [1, 2, 5, 8, 9]
    rows, values = predicted(greys, tmp_path, lookup_net(TABLE), chosen)
    assert [row.label for row in rows] == [LABELS[i] for i in chosen]
    np.testing.assert_allclose(values, TABLE[chosen], atol=1e-7)


def test_probabilities_are_those_of_one_image_at_a_time(real, tmp_path):
    net, root = real
    rows, values = predicted(root, tmp_path, net)
    assert np.ptp(values, axis=0).max() > 0.05  # the images' probabilities differ
    examples = list(open_images(root))
    assert len(values) == len(examples) == 18
    for example, row, probabilities in zip(examples, rows, values, strict=True):
        square = read_square(example.data, name="", rescaling=Rescaling(size=64))
        np.testing.assert_allclose(probabilities, net.probabilities([square])[0], atol=1e-5)
        assert row.name == "/".join(Path(example.name).parts[-3:])  # relative to the set's folder


def test_a_rows_bytes_do_not_depend_on_its_neighbours(real, tmp_path):
    net, root = real
    _, whole = predicted(root, tmp_path / "whole", net)
    for i, chosen in enumerate(([3], [0, 3, 17], range(1, 18), [2, 3, 5, 7, 11, 13])):
        _, part = predicted(root, tmp_path / str(i), net, chosen)
        assert part.tobytes() == whole[list(chosen)].tobytes()


@pytest.mark.parametrize("views", ["ten", "center"])
def test_every_call_of_a_net_takes_the_same_number_of_patches(greys, tmp_path, views):
    (greys / "002.png").write_bytes(b"damaged")
    net = lookup_net(TABLE, views)
    predicted(greys, tmp_path, net)
    assert net.backend.calls == [BATCH * (10 if views == "ten" else 1)] * 3


def test_images_that_cannot_be_read_keep_their_place_with_the_reason_and_zeros(greys, tmp_path):
    (greys / "002.png").write_bytes(b"damaged")
    data = (greys / "003.png").read_bytes()
    (greys / "003.png").write_bytes(data[: data.index(b"IDAT")])
    rows, values = predicted(greys, tmp_path, lookup_net(TABLE))
    assert [row.label for row in rows] == LABELS
    assert [i for i, row in enumerate(rows) if row.error] == [1, 2]
    assert rows[1].error.startswith("not an image")
    assert "002.png" not in rows[1].error
    assert not values[1:3].any()
    np.testing.assert_allclose(np.delete(values, [1, 2], 0), np.delete(TABLE, [1, 2], 0), atol=1e-7)


def test_an_image_that_was_deleted_keeps_its_place(greys, tmp_path):
    data = open_images(greys)
    (greys / "004.png").unlink()
    predictions = opened(tmp_path, about(len(LABELS)), data.listed(range(len(LABELS))))
    predict(data, range(len(LABELS)), [(lookup_net(TABLE), predictions)])
    predictions.close()
    ((rows, values),) = predictions.chunks()
    assert [row.error for row in rows] == [None] * 3 + ["missing, or not a regular file"] + [None] * 6
    assert not values[3].any()


def test_a_batch_without_readable_images_does_not_reach_the_net(greys, tmp_path):
    for i in range(1, 5):
        (greys / f"{i:03}.png").write_bytes(b"damaged")
    net = lookup_net(TABLE)
    rows, values = predicted(greys, tmp_path, net)
    assert len(net.backend.calls) == 2
    assert sum(row.error is not None for row in rows) == 4
    assert not values[:4].any()
    assert values[4:].any(1).all()


def test_exif_orientation_is_ignored(real, tmp_path):
    net, _ = real
    image = Image.open(io.BytesIO(jpeg(3)))
    exif = Image.Exif()
    exif[0x0112] = 6
    values = []
    for name, options in (("plain", {}), ("turned", {"exif": exif})):
        root = tmp_path / name
        write_greys(root, [0])
        image.save(root / "001.png", **options)
        values.append(predicted(root, tmp_path / f"{name}.cache", net)[1])
    turned = read_square((tmp_path / "turned" / "001.png"), name="", rescaling=Rescaling(size=64))
    assert np.abs(net.probabilities([turned])[0] - values[0]).max() > 1e-4  # turning the image would change the result
    assert values[0].tobytes() == values[1].tobytes()


# Several nets.


def test_nets_with_the_same_preprocessing_share_the_patches(real, tmp_path, monkeypatch):
    from alexnet_infer.nets import load

    net, root = real
    nets = [net] + [load(save_net(tmp_path / f"{i}.safetensors", i), device="cpu") for i in (1, 2)]
    nets.append(load(save_net(tmp_path / "near.safetensors", 0, resample="nearest"), device="cpu"))
    cut = []

    def counted(*args):
        cut.append(args)
        return patches(*args)

    monkeypatch.setattr("alexnet_infer.predict.patches", counted)
    data = open_images(root)
    predictions = [opened(tmp_path, about(6, net=f"net{'s' * i}"), data.listed(range(6))) for i in range(4)]
    predict(data, range(6), list(zip(nets, predictions, strict=True)))
    for part in predictions:
        part.close()
    assert len(cut) == 2 * 6
    together = [next(part.chunks())[1] for part in predictions]
    monkeypatch.undo()
    for i, member in enumerate(nets):
        alone = predicted(root, tmp_path / f"alone {i}", member, range(6))[1]
        assert together[i].tobytes() == alone.tobytes()
    assert len({values.tobytes() for values in together}) == 4


def test_each_net_continues_from_where_it_was(greys, tmp_path):
    """The nets start with no predictions, one batch, all but the last batch, and all."""
    data, done = open_images(greys), (0, 4, 8, 10)
    nets = [lookup_net(np.roll(TABLE, i, 1)) for i in range(4)]
    for i, count in enumerate(done):
        predictions = opened(tmp_path, about(10, net=f"net{'s' * i}"), data.listed(range(10)))
        if count:
            whole = predicted(greys, tmp_path / f"whole {i}", nets[i])
            predictions.append(whole[0][:count], whole[1][:count])
        predictions.close()
        nets[i].backend.calls.clear()
    predictions = [opened(tmp_path, about(10, net=f"net{'s' * i}"), data.listed(range(10))) for i in range(4)]
    counted: list[int] = []
    predict(data, range(10), list(zip(nets, predictions, strict=True)), on_images=counted.append)
    assert [len(net.backend.calls) for net in nets] == [3, 2, 1, 0]
    assert sum(counted) == 10
    for i, part in enumerate(predictions):
        part.close()
        np.testing.assert_allclose(next(part.chunks())[1], np.roll(TABLE, i, 1), atol=1e-7)


def test_a_continued_run_does_not_read_images_that_are_done(greys, tmp_path, monkeypatch):
    data, net = open_images(greys), lookup_net(TABLE)
    rows, values = predicted(greys, tmp_path / "whole", net)
    predictions = opened(tmp_path, about(10), data.listed(range(10)))
    predictions.append(rows[:8], values[:8])
    for i in range(1, 9):
        (greys / f"{i:03}.png").unlink()
    counted: list[int] = []
    predict(data, range(10), [(net, predictions)], on_images=counted.append)
    predictions.close()
    assert counted == [8, 2]
    assert next(predictions.chunks())[0] == rows


# Memory.


def test_only_a_few_batches_are_read_ahead_of_a_slow_net(tmp_path, monkeypatch):
    count = 100
    data = open_images(write_greys(tmp_path / "set", [i % 6 for i in range(count)]))
    net = lookup_net(np.full((count, 6), 1 / 6))
    predictions = opened(tmp_path / "cache", about(count), data.listed(range(count)))
    read, ahead = 0, []
    at, append = data.at, predictions.append

    def counting(positions, on_error):
        nonlocal read
        for example in at(positions, on_error):
            read += 1
            ahead.append(read - predictions.done)
            yield example

    def slowly(*args):
        time.sleep(0.002)
        ahead.append(read - predictions.done)
        append(*args)

    monkeypatch.setattr(data, "at", counting)
    monkeypatch.setattr(predictions, "append", slowly)
    predict(data, range(count), [(net, predictions)])
    predictions.close()
    assert read == count
    assert BATCH < max(ahead) <= (AHEAD + 2) * BATCH


def test_a_failing_net_stops_the_run_and_its_threads(greys, tmp_path):
    net = lookup_net(TABLE)

    def fail(patches_nchw):
        raise KeyboardInterrupt

    net.backend.infer = fail
    data = open_images(greys)
    predictions = opened(tmp_path, about(10), data.listed(range(10)))
    with pytest.raises(KeyboardInterrupt):
        predict(data, range(10), [(net, predictions)])
    predictions.close()
    assert predictions.done == 0


def test_the_clock_counts_every_stage(greys, tmp_path):
    clock = Clock()
    predicted(greys, tmp_path, lookup_net(TABLE), clock=clock)
    assert clock.seconds.keys() == set(STAGES)
    assert all(seconds > 0 for seconds in clock.seconds.values())


@pytest.mark.parametrize(
    ("seconds", "workers", "expected"),
    [
        ({"read": 1, "decode": 20, "resize": 12, "patches": 2, "net": 5}, 4, ("decode", 0.8)),
        ({"read": 1, "decode": 20, "resize": 12, "patches": 2, "net": 9}, 4, ("net", 0.9)),
        ({"read": 9, "decode": 20, "resize": 12, "patches": 2, "net": 5}, 16, ("read", 0.9)),
        ({"net": 12}, 1, ("net", 1.0)),
    ],
)
def test_the_bottleneck_is_the_stage_whose_threads_were_busiest(seconds, workers, expected):
    clock = Clock(wall=10, workers=workers)
    clock.seconds.update(seconds)
    assert clock.bottleneck() == pytest.approx(expected)


def test_without_any_time_there_is_no_bottleneck():
    assert Clock().bottleneck() is None
