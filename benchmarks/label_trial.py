"""How the verdicts of `alexnet-infer data check --quick-test` come out, and the file of results that it uses.

    python benchmarks/label_trial.py measure --data DATA      write models/recognition.json, by `alexnet-infer eval`
    python benchmarks/label_trial.py verdicts --data DATA     a table: sample and labels by verdict, all bundled nets

DATA is Tiny ImageNet. `verdicts` runs each net once on all validation images and judges many labellings of samples of
them. With `--halves`, what the net achieves is measured on one half of the images, and the other half is judged: no
image is judged by itself. With `--train`, training images are judged; the net is right more often on them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from alexnet_infer.artifact import sha256
from alexnet_infer.datasets import LabelledImages
from alexnet_infer.datasets.base import Example
from alexnet_infer.doctor.achieved import RESULTS, Achieved, class_results, from_counts
from alexnet_infer.doctor.finding import Finding
from alexnet_infer.doctor.judge import Trial, judge
from alexnet_infer.doctor.orders import known_orders
from alexnet_infer.doctor.trial import sample
from alexnet_infer.manifest import ClassName
from alexnet_infer.nets import load, nets_at_hand
from alexnet_infer.reading import batches, decode_ahead

Labelling = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Turns right labels int [N] into those to judge."""


def measure(data: Path) -> None:
    """Write the results of the bundled nets for each class, for one central view."""
    nets = []
    for path in nets_at_hand():
        command = [sys.executable, "-m", "alexnet_infer", "eval", "--json", "--views", "center"]
        done = subprocess.run([*command, "--data", data, "--model", path], check=True, capture_output=True, text=True)
        result = json.loads(done.stdout)
        classes = {row["wnid"]: row for row in result["classes"]}
        rows = [classes[c.wnid] for c in load(path, device="cpu").classes]
        nets.append(
            {
                "net": path.stem,
                "sha256": sha256(path),
                "data": "tiny-imagenet, validation",
                "views": "center",
                "images": [row["images"] for row in rows],
                "right": [row["images"] - row["top1"] for row in rows],
            }
        )
        print(f"{path.stem}: {sum(nets[-1]['right'])} of {sum(nets[-1]['images'])}", flush=True)
    body = ",\n".join(" " + json.dumps(net) for net in nets)
    (nets_at_hand()[0].parent / RESULTS).write_text(f'{{"format": 1, "nets": [\n{body}\n]}}\n')


# Labellings.


def true_to_label(order: np.ndarray) -> np.ndarray:
    """The inverse of an order, which gives the true class of each label. A class without a label keeps its own."""
    labels = np.arange(len(order))
    labels[order[order >= 0]] = np.flatnonzero(order >= 0)
    return labels


def labellings(classes: tuple[ClassName, ...]) -> dict[str, tuple[int, Labelling]]:
    """Name -> (number of repetitions, labelling)."""
    count = len(classes)
    orders: dict[str, list[np.ndarray]] = defaultdict(list)
    for name, order in known_orders(classes):
        if not name.startswith("positions"):
            orders[name.partition(" (")[0]].append(true_to_label(order))

    def relabel(labels: np.ndarray, random: np.random.Generator, share: float) -> np.ndarray:
        wrong = random.random(len(labels)) < share
        return np.where(wrong, random.integers(0, count, len(labels)), labels)

    def exchange(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
        present = np.unique(labels)
        a, b = random.choice(present, 2, replace=False)
        return np.where(labels == a, b, np.where(labels == b, a, labels))

    def tail(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
        first = random.integers(count // 4, 3 * count // 4)
        return np.where(labels >= first, np.minimum(labels + 1, count - 1), labels)

    def one_of(tables: list[np.ndarray], labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return tables[random.integers(len(tables))][labels]

    return {
        "right": (30, lambda labels, random: labels),
        "any permutation": (30, lambda labels, random: random.permutation(count)[labels]),
        "shifted": (30, lambda labels, random: (labels + random.integers(2, count - 1)) % count),
        "counted from 1": (10, lambda labels, random: np.minimum(labels + 1, count - 1)),
        "minus 1": (10, lambda labels, random: np.maximum(labels - 1, 0)),
        **{name: (10, partial(one_of, tables)) for name, tables in orders.items()},
        "unrelated": (30, lambda labels, random: random.permutation(labels)),
        "one class missing": (30, tail),
        "two classes swapped": (30, exchange),
        **{f"{share:.0%} wrong": (30, partial(relabel, share=share)) for share in (0.1, 0.2, 0.3, 0.5)},
    }


# Samples of the right set.


def subsets(labels: np.ndarray) -> dict[str, Callable[[np.random.Generator], np.ndarray]]:
    """Name -> function that chooses positions of the set."""
    present = np.unique(labels)

    def of_classes(random: np.random.Generator, classes: int, each: int) -> np.ndarray:
        chosen = random.choice(present, classes, replace=False)
        return np.sort(np.concatenate([random.permutation(np.flatnonzero(labels == label))[:each] for label in chosen]))

    def any_images(random: np.random.Generator, count: int) -> np.ndarray:
        return np.sort(random.choice(len(labels), count, replace=False))

    everything = int(np.bincount(labels).max())
    return {
        "all": lambda random: np.arange(len(labels)),
        "3 per class": lambda random: of_classes(random, len(present), 3),
        **{f"{count} classes": partial(of_classes, classes=count, each=everything) for count in (50, 20, 6)},
        **{f"{count} images": partial(any_images, count=count) for count in (200, 100, 50, 20)},
    }


def hard(probabilities: np.ndarray, labels: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Right labels of images that the net gets wrong: (name, positions)."""
    own = probabilities[np.arange(len(labels)), labels]
    rank = (probabilities > own[:, None]).sum(1)
    yield "images that the net gets wrong", np.flatnonzero(rank >= 1)
    yield "images not in the net's top 5", np.flatnonzero(rank >= 5)


# Verdicts.


def guesses(data: LabelledImages, positions: list[int], model: Path) -> np.ndarray:
    """The net's probabilities for the images, [N, K]."""
    net = load(model, device="cpu", views="center")
    rows = []
    for batch in batches(decode_ahead(data.at(positions), partial(Example.square, rescaling=net.rescaling)), 64):
        rows.append(net.probabilities([image.image for image in batch]))
    return np.concatenate(rows)


def verdict(
    classes: tuple[ClassName, ...], probabilities: np.ndarray, labels: np.ndarray, achieved: Achieved | None
) -> Finding:
    """The finding on a set with these labels, of which a sample is taken as `data check` does."""
    identity = np.arange(len(classes))
    positions = sample(labels, identity)
    names = [f"{position}.jpg" for position in positions]
    return judge(
        Trial(
            labels=labels[positions],
            probabilities=probabilities[positions],
            to_net=identity,
            classes=classes,
            net_classes=classes,
            names=names,
            available=len(labels),
            achieved=achieved,
        )
    )


def verdicts(
    classes: tuple[ClassName, ...], probabilities: np.ndarray, truth: np.ndarray, achieved: Achieved | None, seed: int
) -> dict[tuple[str, str], Counter[str]]:
    """(sample, labels) -> how often each level and title came out."""
    random = np.random.default_rng(seed)
    table: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for subset, choose in subsets(truth).items():
        for name, (repetitions, labelling) in labellings(classes).items():
            for _ in range(repetitions):
                chosen = choose(random)
                finding = verdict(classes, probabilities[chosen], labelling(truth[chosen], random), achieved)
                table[subset, name][short(finding)] += 1
    for name, chosen in hard(probabilities, truth):
        for _ in range(30):
            part = np.sort(random.choice(chosen, len(chosen) // 2, replace=False))
            table[name, "right"][short(verdict(classes, probabilities[part], truth[part], achieved))] += 1
            labels = random.permutation(len(classes))[truth[part]]
            table[name, "any permutation"][short(verdict(classes, probabilities[part], labels, achieved))] += 1
    return table


def short(finding: Finding) -> str:
    words = {
        "ok": "ok",
        "labels look permuted": "permuted, known" if finding.detail.startswith("they look like") else "permuted",
        "classes with labels that look shifted": "shifted part",
        "classes look swapped": "swapped",
        "classes fit other classes better": "odd classes",
        "labels don't fit the net's guesses": "don't fit",
        "fewer images are classified correctly than expected": "too few right",
        "classes are classified correctly less often than expected": "odd classes",
        "can't tell whether the labels fit": "can't tell",
    }
    return "ok" if finding.level == "ok" else words[finding.title]


def show(table: dict[tuple[str, str], Counter[str]]) -> None:
    for (subset, name), counts in table.items():
        print(f"{subset:32} {name:36} {', '.join(f'{count} {word}' for word, count in counts.most_common())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("measure", "verdicts"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--nets", type=int, default=5, help="the number of bundled nets")
    parser.add_argument("--halves", action="store_true")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--unknown", action="store_true", help="judge as if nothing were known of the net")
    arguments = parser.parse_args()
    if arguments.command == "measure":
        measure(arguments.data)
        return
    data = LabelledImages(arguments.data, "train" if arguments.train else "validation")
    positions = list(range(0, len(data), 20 if arguments.train else 1))
    truth = np.array(data.labels)[positions]
    total: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for seed, model in enumerate(nets_at_hand()[: arguments.nets]):
        probabilities = guesses(data, positions, model)
        results = class_results()[sha256(model)]
        known: Achieved | None = from_counts(results.right, results.images, "its results")
        chosen = np.arange(len(truth))
        if arguments.halves:
            measured, chosen = chosen[::2], chosen[1::2]
            count = len(data.classes)
            right = probabilities[measured].argmax(1) == truth[measured]
            known = from_counts(
                np.bincount(truth[measured][right], minlength=count),
                np.bincount(truth[measured], minlength=count),
                "the other half",
            )
        known = None if arguments.unknown else known
        for key, counts in verdicts(data.classes, probabilities[chosen], truth[chosen], known, seed).items():
            total[key] += counts
    show(total)


if __name__ == "__main__":
    main()
