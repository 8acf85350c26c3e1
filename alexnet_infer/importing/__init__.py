"""Import trained nets of other tools: convert Caffe, ONNX and PyTorch files to model files."""
