"""Published AlexNets: the registry that lists them, and their download to this machine."""
