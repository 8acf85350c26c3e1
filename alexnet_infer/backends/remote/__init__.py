"""Nets on servers of the Open Inference Protocol (KServe v2): Triton, KServe, or `alexnet-infer serve`.

`address` is what a user writes; `client` is what is asked of a server, by `http` or `grpc`; `model` checks what it says
of its net; `backend` sends it images.
"""
