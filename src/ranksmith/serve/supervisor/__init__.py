"""The supervisor: starts the other processes, watches them, and holds no request."""
