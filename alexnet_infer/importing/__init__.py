"""Other people's trained nets: files of Caffe, ONNX and PyTorch -> our model file."""
