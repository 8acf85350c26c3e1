"""An image's digest against sha256sum, and against what an exported file accepts."""

from __future__ import annotations

from alexnet_infer.digests import DIGITS, image_digest
from alexnet_infer.graph.info import CalibrationRecord


def test_a_digest_is_the_start_of_the_sha256_of_the_bytes():
    assert image_digest(b"") == "e3b0c44298fc1c14"  # printf '' | sha256sum
    assert image_digest(b"abc") == "ba7816bf8f01cfea"  # FIPS 180-2, appendix B.1
    assert image_digest(b"abc") != image_digest(b"abd")


def test_an_exported_file_accepts_a_digest():
    digest = image_digest(b"abc")
    assert len(digest) == DIGITS
    assert CalibrationRecord(method="entropy", images=(digest,)).images == (digest,)
