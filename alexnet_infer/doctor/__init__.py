"""`alexnet-infer data check`: find the defects of a labelled image set."""
