"""The Open Inference Protocol, version 2, as pure functions: bytes and plain values in, bytes and plain values out."""
