"""Predictions for each image: CSV and Parquet agree, and guesses are in the stable order of the mean."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.errors import BackendError, UsageError
from alexnet_infer.evaluation.predictions import ImageRow, Predictions
from alexnet_infer.evaluation.save import check_file, save_table
from alexnet_infer.evaluation.scoring import Scores
from tests.datasets.mini import WNIDS, refused
from tests.evaluation.toys import about, opened

COUNT = 40


def values(seed: int) -> np.ndarray:
    """Probabilities of few levels, so that ties are frequent within a net and in the mean."""
    levels = np.random.default_rng(seed).integers(0, 4, (COUNT, 6)) + 1
    return (levels / 32).astype(np.float32)


ROWS = [ImageRow(f"val/{i}.jpg", i % 6, None) for i in range(COUNT)]
ROWS[7] = ImageRow('val/7, "seven".jpg', 1, "damaged, incomplete")
NETS = {"net": ("1" * 64, values(0)), "other": ("2" * 64, values(1))}


def predictions(folder: Path, name: str, sha256: str, probabilities: np.ndarray) -> list[Predictions]:
    """Store the predictions of one net in two shards."""
    probabilities = np.where([[row.error is None] for row in ROWS], probabilities, 0).astype(np.float32)
    parts = []
    for begin, end in ((0, 16), (16, COUNT)):
        part = opened(folder, about(COUNT, net=name, sha256=sha256, begin=begin, end=end), ROWS[begin:end])
        part.append(ROWS[begin:end], probabilities[begin:end])
        part.close()
        parts.append(part)
    return parts


@pytest.fixture
def nets(tmp_path) -> list[list[Predictions]]:
    return [predictions(tmp_path, name, *rest) for name, rest in NETS.items()]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_guesses_are_the_stable_order_of_the_mean_and_of_each_net(nets, tmp_path):
    save_table(Scores(nets), tmp_path / "table.csv")
    rows = read_csv(tmp_path / "table.csv")
    assert len(rows) == COUNT
    ties = 0
    for i, (row, cells) in enumerate(zip(ROWS, rows, strict=True)):
        assert (cells["image"], cells["label"], cells["error"]) == (row.name, WNIDS[row.label], row.error or "")
        if row.error:
            assert not any(cells[f"guess_{k}"] or cells[f"p_{k}"] for k in range(1, 6))
            assert cells["net: guess"] == cells["other: guess"] == ""
            continue
        mean = [(float(NETS["net"][1][i, c]) + float(NETS["other"][1][i, c])) / 2 for c in range(6)]
        order = sorted(range(6), key=lambda c: (-mean[c], c))[:5]
        ties += len({mean[c] for c in order}) < 5
        assert [cells[f"guess_{k}"] for k in range(1, 6)] == [WNIDS[c] for c in order]
        assert [float(cells[f"p_{k}"]) for k in range(1, 6)] == [mean[c] for c in order]
        for name, (_, own) in NETS.items():
            best = min(range(6), key=lambda c: (-own[i, c], c))
            assert cells[f"{name}: guess"] == WNIDS[best]
    assert ties > 10


def test_csv_and_parquet_agree(nets, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    for name in ("table.csv", "table.parquet"):
        save_table(Scores(nets), tmp_path / name)
    csv_rows = read_csv(tmp_path / "table.csv")
    parquet_rows = parquet.read_table(tmp_path / "table.parquet").to_pylist()
    assert list(csv_rows[0]) == list(parquet_rows[0])
    for csv_row, parquet_row in zip(csv_rows, parquet_rows, strict=True):
        for key, value in parquet_row.items():
            assert csv_row[key] == ("" if value is None else str(value))
            assert isinstance(value, float | None) if key.startswith("p_") else isinstance(value, str | None)


def test_columns_have_their_type_even_when_they_are_empty(nets, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    unreadable = opened(tmp_path, about(1), [("0.jpg", 0)])
    unreadable.append([ImageRow("0.jpg", 0, "not an image")], np.zeros((1, 6), np.float32))
    unreadable.close()
    save_table(Scores([[unreadable]]), tmp_path / "empty.parquet")
    save_table(Scores(nets[:1]), tmp_path / "filled.parquet")
    empty, filled = (parquet.read_schema(tmp_path / name) for name in ("empty.parquet", "filled.parquet"))
    assert [(field.name, field.type) for field in empty] == [(field.name, field.type) for field in filled]


def test_nets_with_the_same_name_have_separate_columns(tmp_path):
    twins = [predictions(tmp_path, "net", digest, own) for digest, own in NETS.values()]
    save_table(Scores(twins), tmp_path / "table.csv")
    rows = read_csv(tmp_path / "table.csv")
    columns = [name for name in rows[0] if name.endswith(": guess")]
    assert columns == ["net 11111111: guess", "net 22222222: guess"]
    assert any(row[columns[0]] != row[columns[1]] for row in rows)


def test_a_net_of_three_classes_has_three_guesses(tmp_path):
    stored = opened(tmp_path, about(1, wnids=WNIDS[:3]), [("0.jpg", 0)])
    stored.append([ImageRow("0.jpg", 0, None)], np.float32([[0.2, 0.5, 0.3]]))
    stored.close()
    save_table(Scores([[stored]]), tmp_path / "table.csv")
    (row,) = read_csv(tmp_path / "table.csv")
    assert [row[f"guess_{k}"] for k in range(1, 6)] == [WNIDS[1], WNIDS[2], WNIDS[0], "", ""]


@pytest.mark.parametrize("name", ["table", "table.tsv", "table.CSV", ".csv.gz"])
def test_another_suffix_is_refused_at_once(tmp_path, name):
    refused(lambda: check_file("--save-predictions", tmp_path / name), "ends in .csv or .parquet", error=UsageError)


def test_a_missing_folder_is_refused_at_once(tmp_path):
    refused(
        lambda: check_file("--save-predictions", tmp_path / "absent" / "table.csv"),
        "absent",
        "no such folder",
        error=UsageError,
    )


def test_parquet_without_pyarrow_is_refused_with_the_pip_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(
        lambda: check_file("--save-predictions", tmp_path / "table.parquet"), "pip install pyarrow", error=BackendError
    )
    check_file("--save-predictions", tmp_path / "table.csv")


def test_a_table_that_cannot_be_written_is_a_one_line_error(nets, tmp_path):
    (tmp_path / "table.csv").mkdir()
    refused(
        lambda: save_table(Scores(nets), tmp_path / "table.csv"),
        "--save-predictions",
        "can't be written",
        error=UsageError,
    )
