"""Serve a model over HTTP and gRPC."""
