"""What the server tells of itself, on stderr: for people on a terminal, as JSON for everybody else."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import Processor

__all__ = ["configure"]


def configure(*, quiet: bool = False) -> None:
    """
    Args:
        quiet: warnings and errors only.
    """
    terminal = sys.stderr.isatty()
    renderers: list[Processor] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    if terminal:
        # Without the values of local variables: they may be a client's.
        renderers = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING if quiet else logging.INFO),
        # Whole lines at once: the processes share it.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
