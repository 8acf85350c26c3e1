"""Published facts about ILSVRC-2012: its 1,000 classes in label order, its archives, and how to recognise it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from alexnet_infer.datasets.tree import Split
from alexnet_infer.manifest import ClassName

ILSVRC = "ILSVRC-2012"
ARCHIVES: dict[Split, dict[str, tuple[int | None, str]]] = {
    "validation": {"ILSVRC2012_img_val.tar": (6_744_924_160, "29b22e2961454d5413ddabcf34fc5622")},
    "train": {"ILSVRC2012_img_train.tar": (147_897_477_120, "1d675b47d978889d74fa0da5fadfb00e")},
}
"""Split -> name of its archive -> size in bytes and MD5, as published."""
DEVKIT = (None, "fa75699e90414af021442c21a62c3abf")
"""Size (None: not compared) and MD5 of the devkit's archive."""

_CLASS_LISTS = {
    "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd": "ILSVRC-2012",
    "add4bf0c8712ef7fb4bca98e3bbaf07101636c5db62cce486fd2af71cc11caf8": "Tiny ImageNet",
}
"""The data set, by the SHA-256 of its WordNet ids in sorted order, joined by newlines.

The numbers of classes and images do not identify a data set: ILSVRC-2010 also has 1,000 classes and 50,000 validation
images, but its classes are different.
"""

TABLE = Path(__file__).with_name("ilsvrc2012.tsv")


@functools.cache
def ilsvrc_classes() -> tuple[ClassName, ...]:
    """Return the classes sorted by WordNet id. Their names are the words of their WordNet synsets.

    A name alone does not identify a class: two are called "crane", a bird and a machine, and two "maillot".
    """
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    return tuple(ClassName(wnid=wnid, name=name) for wnid, name in (line.split("\t") for line in lines))


@functools.cache
def ilsvrc_names() -> Mapping[str, str]:
    """Return the names of the classes by WordNet id."""
    return {c.wnid: c.name for c in ilsvrc_classes()}


def identify(wnids: Sequence[str]) -> str | None:
    """Return the data set in _CLASS_LISTS that has exactly these classes (WordNet ids, sorted), or None."""
    return _CLASS_LISTS.get(hashlib.sha256("\n".join(wnids).encode()).hexdigest())
