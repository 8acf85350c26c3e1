"""The published AlexNets: what there is, where it lies, and fetching it."""
