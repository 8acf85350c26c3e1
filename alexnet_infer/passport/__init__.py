"""The passport of exported files: what they are, how far they are the same net, how fast, and how to check that."""
