"""LRN as a TensorRT plugin, `alexnet_infer::GroupedLRN`, because TensorRT has no layer for column-wise LRN.

lrn.cu is the kernel, kernel.py compiles it to PTX, and plugin.py registers it with TensorRT. The PTX is stored in the
engine, so running an engine needs neither Python nor this package.
"""
