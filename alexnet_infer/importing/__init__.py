"""Import nets trained with other tools: convert Caffe, ONNX and PyTorch files to model files."""
