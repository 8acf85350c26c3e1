"""The commands of `alexnet-infer`, called with parsed arguments."""
