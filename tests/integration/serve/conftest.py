"""What the tests of the server share."""

from __future__ import annotations

import pytest

from ranksmith.runtime.session import Session, open_session
from ranksmith.workflow.source import resolve


@pytest.fixture(scope="session")
def session() -> Session:
    """The demo model in this process."""
    return open_session(resolve("demo").path, threads=1)
