"""The map of the parts that matter, as pictures and as a table."""

from __future__ import annotations

from typing import Any

import numpy as np

from alexnet_infer.explain.answers import pixels
from alexnet_infer.explain.measure import Explained
from alexnet_infer.explain.occlusion import boundaries
from alexnet_infer.pages import percent
from alexnet_infer.preprocess import Preprocessing

MOST_NUMBERS = 24
"""The most positions in a row of the table. A finer map is shown without its numbers, which --json has."""

SCALE = np.array([(253, 231, 37), (94, 201, 98), (33, 145, 140), (59, 82, 139), (68, 1, 84)], np.float64)
"""Colours from the lowest probability to the highest: viridis backwards, which is also ordered by brightness."""

LEAST_SPAN = 0.05
"""The least difference of the probabilities at the ends of the colour scale: otherwise noise looks like evidence."""

OPACITY = 0.5
"""How much of a tile's colour covers the photo."""


def view_of_occlusion(net: Explained) -> dict[str, Any]:
    """Return what the template shows: the map over the photo, its numbers, and the two extreme positions."""
    found = net.occlusion
    hiding, probability = found.hiding, found.probability.astype(np.float64)
    least, most = min(probability.min(), found.whole), max(probability.max(), found.whole)
    low, high = _scale(least, most)
    shares = (probability - low) / (high - low)
    colours = _colours(shares)
    numbered = len(hiding.offsets) <= MOST_NUMBERS
    extremes = [int(probability.argmin()), int(probability.argmax())]
    return {
        "found": found,
        "label": net.named(found.label),
        "own": found.label == net.top(net.mean)[0],
        "picture": pixels(_overlay(net, colours)),
        "digits": _digits(least, most),
        "low": low,
        "high": high,
        "widened": most - least < LEAST_SPAN,
        "changes": most - least,
        "whole": 100 * (found.whole - low) / (high - low),
        "stops": [_css(colour) for colour in SCALE],
        "cells": [
            [(float(p), _css(colour), _ink(colour)) for p, colour in zip(row, row_colours, strict=True)]
            for row, row_colours in zip(probability, colours, strict=True)
        ]
        if numbered
        else [],
        "extremes": [_extreme(net, i) for i in extremes],
        "below": int((probability < found.whole).sum()),
        "first": None if found.whole_first == found.label else net.named(found.whole_first),
        "changed": int((found.first != found.whole_first).sum()),
    }


def _scale(least: float, most: float) -> tuple[float, float]:
    """Return the probabilities at the ends of the colour scale: these, or LEAST_SPAN apart around them, in 0 to 1."""
    missing = LEAST_SPAN - (most - least)
    if missing <= 0:
        return least, most
    low = min(max(0.0, least - missing / 2), 1 - LEAST_SPAN)
    return low, low + LEAST_SPAN


def _digits(least: float, most: float) -> int:
    """Return the fewest digits of a percentage, at most 6, with which the lowest and the highest one differ."""
    fewest = 1 if most >= 0.1 else 2
    return next((n for n in range(fewest, 7) if percent(least, n) != percent(most, n)), fewest)


def _extreme(net: Explained, i: int) -> dict[str, Any]:
    """Return the picture, the place and the answer for one position of the hiding square."""
    found = net.occlusion
    row, column = divmod(i, len(found.hiding.offsets))
    top, left = found.hiding.offsets[row], found.hiding.offsets[column]
    picture = net.square.copy()
    area = np.s_[top : top + found.hiding.square, left : left + found.hiding.square]
    picture[area] = np.broadcast_to(mean_colour(net.manifest.preprocessing), picture.shape)[area]
    return {
        "picture": pixels(picture),
        "top": top,
        "left": left,
        "probability": float(found.probability[row, column]),
        "first": net.named(int(found.first[row, column])),
    }


def mean_colour(preprocessing: Preprocessing) -> np.ndarray:
    """Return the training set's mean as a colour uint8 [3] or an image uint8 [S, S, 3], RGB."""
    mean = preprocessing.mean * (255 if preprocessing.value_range == "0-1" else 1)
    mean = mean[..., ::-1] if preprocessing.channel_order == "BGR" else mean
    return np.rint(mean).astype(np.uint8)


def _colours(shares: np.ndarray) -> np.ndarray:
    """Return the colour uint8 [..., 3] of each share [...], from 0 (lowest probability) to 1."""
    at = np.linspace(0, 1, len(SCALE))
    return np.rint(np.stack([np.interp(shares, at, channel) for channel in SCALE.T], -1)).astype(np.uint8)


def _overlay(net: Explained, colours: np.ndarray) -> np.ndarray:
    """Return the part of the photo that was hidden in turn, grey, with each position's tile in its colour over it."""
    hiding = net.occlusion.hiding
    tiles = np.zeros((*net.square.shape[:2], 3))
    edges = list(boundaries(hiding))
    for (top, bottom), row in zip(edges, colours, strict=True):
        for (left, right), colour in zip(edges, row, strict=True):
            tiles[top:bottom, left:right] = colour
    part = np.s_[hiding.begin : hiding.begin + hiding.extent, hiding.begin : hiding.begin + hiding.extent]
    grey = (net.square @ np.array([0.299, 0.587, 0.114]))[..., None]
    return np.rint((1 - OPACITY) * grey + OPACITY * tiles)[part].astype(np.uint8)


def _css(colour: np.ndarray) -> str:
    return "#" + "".join(f"{round(c):02x}" for c in colour.tolist())


def _ink(colour: np.ndarray) -> str:
    """Return black or white, whichever is easier to read on a colour (WCAG 2.1: equal at a luminance of 0.179)."""
    parts = np.asarray(colour) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return "#000" if linear @ np.array([0.2126, 0.7152, 0.0722]) > 0.179 else "#fff"
