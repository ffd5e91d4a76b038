"""`ranksmith serve` against its peers and the bare onnxruntime loop: `python benchmarks/serving --help`."""
