"""Features: the values of a net's layers for many images, in one file.

`about` describes a file, and `table` is what all its forms have in common: names, labels, errors and one array per
layer. The forms are `npy`, `npz`, `parquet` and `hdf5`; `opening` chooses one by the file's suffix. `staging` keeps the
rows of a run until the file is complete, so that a killed run continues where it stopped. `compute` runs the net.
`search` searches a file, `similar` searches it for photos, and `gallery` and `page` show what was found.

>>> from alexnet_infer.features import open_features
>>> features = open_features("cats.npz")
>>> features.names[0], features.array("fc7")[0]
>>> nearest(features, features.array("fc7")[0])[0].distance
0.0
"""

from __future__ import annotations

from alexnet_infer.features.opening import open_features
from alexnet_infer.features.search import Neighbour, nearest

__all__ = ["Neighbour", "nearest", "open_features"]
