"""Published ports of a container whose way out changes."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from rootless.engine.publishing import Publishing
from rootless.model.errors import Conflict


class Case:
    """A container that publishes a port which somebody has."""

    def __init__(self) -> None:
        self.holder = socket.create_server(("127.0.0.1", 0))
        self.port = self.holder.getsockname()[1]
        bindings = {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(self.port)}]}
        record = SimpleNamespace(host_config={"PortBindings": bindings}, config={}, name="c")
        self.container: Any = SimpleNamespace(
            record=record, state=SimpleNamespace(ports=[(80, "tcp", "127.0.0.1", self.port)])
        )
        network = SimpleNamespace(id="n", internal=False, has_devices=True, options={})
        self.joined: Any = SimpleNamespace(way_out=SimpleNamespace(network=network, endpoint_id="e"))
        self.given: list[Any] = []
        self.publishing = Publishing(cast(Any, SimpleNamespace(request=self._request)))

    async def _request(self, message: object, descriptors: object = ()) -> None:
        self.given.append(message)


def test_a_port_that_the_old_network_lets_go_of_later_is_waited_for() -> None:
    case = Case()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(case.publishing.bind_and_publish, case.container, case.joined)
            await trio.sleep(0.1)
            assert case.container.state.ports == []
            case.holder.close()

    trio.run(main)
    assert case.container.state.ports == [(80, "tcp", "127.0.0.1", case.port)]
    assert len(case.given) == 1


def test_but_not_for_ever() -> None:
    case = Case()
    with pytest.raises(Conflict, match="port is already allocated"):
        trio.run(case.publishing.bind_and_publish, case.container, case.joined, clock=MockClock(autojump_threshold=0))
    assert case.container.state.ports == []
    assert not case.given
    case.holder.close()


def test_what_none_of_ours_has_released_is_not_waited_for() -> None:
    case = Case()
    case.container.state.ports = [(80, "udp", "127.0.0.1", case.port)]

    async def main() -> None:
        before = trio.current_time()
        with pytest.raises(Conflict):
            await case.publishing.bind_and_publish(case.container, case.joined)
        assert trio.current_time() == before

    trio.run(main, clock=MockClock(autojump_threshold=0))
    case.holder.close()
