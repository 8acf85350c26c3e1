"""Load test of `alexnet-infer serve`."""
