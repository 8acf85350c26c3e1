"""ONNX Runtime with one thread."""

from __future__ import annotations

from typing import Any


def use_one_thread(patch: Any) -> None:
    """Make new sessions use one thread, unless their options ask for another number. `patch` is as `setattr`."""
    import onnxruntime

    original = onnxruntime.InferenceSession.__init__

    def start(self, model, sess_options=None, *arguments, **options):
        sess_options = sess_options or onnxruntime.SessionOptions()
        sess_options.intra_op_num_threads = sess_options.intra_op_num_threads or 1
        original(self, model, sess_options, *arguments, **options)

    patch(onnxruntime.InferenceSession, "__init__", start)
