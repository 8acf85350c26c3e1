"""Import nets trained with other tools: convert Caffe, ONNX and PyTorch files to model files.

`convert` calls one reader per kind of file (`formats`). Readers raise SpecError without a path, and `convert` adds it.
`conventions` folds channel order and standard deviation into the first kernels. Only `torch_child` imports torch, in a
process of its own, since PyTorch files may be pickles.
"""
