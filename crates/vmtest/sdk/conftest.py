"""What every test of the published SDK shares: a live server (WRENN_BASE_URL, WRENN_API_KEY) and one capsule."""

import time

import pytest
from wrenn import Capsule
from wrenn.client import WrennClient


@pytest.fixture(scope="session")
def capsule():
    with Capsule(wait=True) as made:
        yield made


@pytest.fixture
def client():
    with WrennClient() as made:
        yield made


def until(what, condition, seconds=30):
    """Waits for a condition; fails with its name."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what}")
