"""The table of ILSVRC-2012's classes, compared with independent lists."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from alexnet_infer.artifact import embedded_model, load_manifest
from alexnet_infer.datasets.ilsvrc import identify, ilsvrc_classes

WNIDS = [c.wnid for c in ilsvrc_classes()]


def test_there_are_a_thousand_wordnet_ids_in_sorted_order_each_once():
    assert len(WNIDS) == 1000
    assert all(re.fullmatch("n[0-9]{8}", wnid) for wnid in WNIDS)
    assert all(a < b for a, b in pairwise(WNIDS))


def test_the_evaluation_identifies_them_as_ilsvrc_2012():
    assert identify(WNIDS) == "ILSVRC-2012"  # by a hash


def test_well_known_labels_have_their_usual_positions():
    # Keras, torchvision and Caffe agree on these positions.
    known = {0: "tench", 65: "sea snake", 281: "tabby", 282: "tiger cat", 285: "Egyptian cat", 652: "military uniform"}
    known |= {809: "soup bowl", 970: "alp", 999: "toilet tissue"}
    assert {i: ilsvrc_classes()[i].short for i in known} == known


def test_two_pairs_of_classes_share_their_short_name_and_differ_in_id_and_words():
    short = Counter(c.short for c in ilsvrc_classes())
    assert {name for name, count in short.items() if count > 1} == {"crane", "maillot"}
    assert [c.wnid for c in ilsvrc_classes() if c.short == "crane"] == ["n02012849", "n03126707"]
    assert [c.wnid for c in ilsvrc_classes() if c.short == "maillot"] == ["n03710637", "n03710721"]


def test_the_embedded_nets_classes_are_among_them_under_the_same_names():
    embedded = {c.wnid: c.name for c in load_manifest(embedded_model()).classes}
    table = {c.wnid: c.name for c in ilsvrc_classes()}
    assert len(embedded) == 200
    assert {wnid: table.get(wnid) for wnid in embedded} == embedded


def test_timm_has_the_same_ids_and_words():
    spec = importlib.util.find_spec("timm")  # only located: importing timm would import torch
    if spec is None:
        pytest.skip("timm, which has the same classes, is not installed")
    folder = Path(spec.origin).parent / "data" / "_info"
    assert (folder / "imagenet_synsets.txt").read_text().split() == WNIDS
    words = dict(line.split("\t") for line in (folder / "imagenet_synset_to_lemma.txt").read_text().splitlines())
    assert [words[c.wnid] for c in ilsvrc_classes()] == [c.name for c in ilsvrc_classes()]
