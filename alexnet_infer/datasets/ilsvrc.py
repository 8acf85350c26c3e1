"""The 1,000 classes of ILSVRC-2012 in label order, which is the order of WordNet ids."""

from __future__ import annotations

import functools
from pathlib import Path

from alexnet_infer.artifact import ClassName

TABLE = Path(__file__).with_name("ilsvrc2012.tsv")


@functools.cache
def ilsvrc_classes() -> tuple[ClassName, ...]:
    """Return the classes sorted by WordNet id. Their names are the words of their WordNet synsets.

    A name alone does not identify a class: two are called "crane", a bird and a machine, and two "maillot".
    """
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    return tuple(ClassName(wnid=wnid, name=name) for wnid, name in (line.split("\t") for line in lines))
