"""A link that is slow: relays connections to another address of loopback with so many bits a second and so much delay.

    python -m tests.images.shaping HOST:PORT MBIT_S DELAY_MS     prints its own address

A new connection costs one round trip before its first byte, as TCP's handshake does."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial

import trio

PIECE_BYTES = 16 << 10
BURST_SECONDS = 0.01


@dataclass
class Direction:
    """One way of the link, shared by all connections. Time lost by waking up late is made up for."""

    bytes_per_second: float
    free_at: float = 0.0

    def leaves_at(self, now: float, size: int) -> float:
        self.free_at = max(now - BURST_SECONDS, self.free_at) + size / self.bytes_per_second
        return self.free_at


async def relay(target: tuple[str, int], delay: float, up: Direction, down: Direction, near: trio.SocketStream) -> None:
    async with near, await trio.open_tcp_stream(*target) as far, trio.open_nursery() as nursery:
        nursery.start_soon(one_way, near, far, up, delay / 2, delay)
        nursery.start_soon(one_way, far, near, down, delay / 2, 0.0)


async def one_way(
    source: trio.SocketStream, sink: trio.SocketStream, link: Direction, delay: float, first: float
) -> None:
    send, receive = trio.open_memory_channel[tuple[float, bytes]](64)
    ready = trio.current_time() + first

    async def read() -> None:
        async with send:
            try:
                while data := await source.receive_some(PIECE_BYTES):
                    at = link.leaves_at(max(ready, trio.current_time()), len(data))
                    await send.send((max(at, trio.current_time()) + delay, data))
                    await trio.sleep_until(at)  # the sender is held up, as by a window that is full
            except trio.BrokenResourceError:
                pass

    async def write() -> None:
        async with receive:
            try:
                async for at, data in receive:
                    await trio.sleep_until(at)
                    await sink.send_all(data)
                await sink.send_eof()
            except trio.BrokenResourceError:
                pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(write)


async def main(target: str, megabits: float, delay_ms: float) -> None:
    host, _, port = target.rpartition(":")
    up, down = Direction(megabits * 125_000), Direction(megabits * 125_000)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(f"127.0.0.1:{listeners[0].socket.getsockname()[1]}", flush=True)
    await trio.serve_listeners(partial(relay, (host, int(port)), delay_ms / 1000, up, down), listeners)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
