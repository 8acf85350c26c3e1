"""LRN as a TensorRT plugin, `alexnet_infer::GroupedLRN`: column-wise LRN has no TensorRT layer.

lrn.cu is the kernel, kernel.py compiles it to PTX, plugin.py tells TensorRT of it. The PTX travels in the engine, so
running one needs neither Python nor this package.
"""
