"""What the server tells of itself, on stderr: for people on a terminal, as JSON for everybody else."""

from __future__ import annotations

import logging
import sys

import structlog

__all__ = ["configure"]


def configure(*, quiet: bool = False) -> None:
    """
    Args:
        quiet: warnings and errors only.
    """
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING if quiet else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
