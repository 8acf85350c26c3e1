"""`alexnet-infer data check`: what is wrong with a labelled image set."""
