"""A network with guests for a whole file of tests, which may have its own in their place."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slirp.lab import Guest, Lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab(resolvers=["127.0.0.1", "127.0.0.2"])
    yield made
    made.close()


@pytest.fixture(scope="module", params=["tap", "veth"])
def guest(request: pytest.FixtureRequest, lab: Lab) -> Guest:
    return lab.guest(names=("web", "web.lab"), veth=request.param == "veth")


@pytest.fixture(scope="module")
def other(lab: Lab, guest: Guest) -> Guest:
    return lab.guest(names=("db", "store"))
