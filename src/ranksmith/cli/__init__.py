"""The command line: `app` builds it, `options` and `output` are shared, each verb is one thin file."""

from ranksmith.cli.app import main

__all__ = ["main"]
