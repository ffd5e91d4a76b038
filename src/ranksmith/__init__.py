"""ranksmith: make an ONNX vision model faster on the machine it will run on, and prove it."""
