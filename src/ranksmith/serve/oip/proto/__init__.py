"""The Open Inference Protocol's messages over gRPC, made from `open_inference.proto` by `tools/generate_proto.py`.

The messages live in a descriptor pool of their own, `open_inference_pb2.DESCRIPTOR.pool`, since a process that also
imports tritonclient has the same names, from another file, in the default one.
"""
