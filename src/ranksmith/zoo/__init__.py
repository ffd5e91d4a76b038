"""The ONNX Model Zoo: `catalogue` says what is in it, `fetch` downloads it."""
