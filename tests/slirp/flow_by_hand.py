"""A flow whose guest is the test: segments made one by one."""

from __future__ import annotations

from slirp.stack.tcp_flow import Flow
from slirp.testing import MemoryHost, PlainBuffers
from slirp.wire import tcp
from slirp.wire.tcp import ACK, SYN, Options, Segment

MSS = 1460
SELECTIVE = tcp.emit_options(Options(1460, 7, True))


class ByHand:
    """A flow with a guest played by the test; `sent` are (flags, sequence, acknowledgment, payload)."""

    def __init__(self, host: MemoryHost, options: bytes = b"") -> None:
        self.sent: list[tuple[int, int, int, bytes]] = []
        self.host = host
        self.takes = True
        self.buffers = PlainBuffers()
        self.flow = Flow(self, host, self.buffers, MSS, 5000, 0.0)
        self.flow.accept(segment(SYN, 999, 0, options=options, window=65535), 0.0)

    def transmit(
        self,
        flags: int,
        sequence: int,
        acknowledgment: int,
        window: int,
        options: bytes,
        payload: bytes | memoryview,
        mss: int,
    ) -> bool:
        assert 0 <= window <= 0xFFFF
        self.sent.append((flags, sequence, acknowledgment, bytes(payload)))
        self.window, self.options = window, options
        return self.takes

    def open(self) -> None:
        self.flow.host_connected(0.0)
        assert self.sent.pop() == (SYN | ACK, 5000, 1000, b"")
        self.give(ACK, 1000, 5001)

    def give(self, flags: int, sequence: int, acknowledgment: int, payload: bytes = b"", window: int = 65535) -> None:
        self.flow.segment(segment(flags, sequence, acknowledgment, payload, window=window), 0.0)
        self.flow.flush_ack()


def segment(
    flags: int, sequence: int, acknowledgment: int, payload: bytes = b"", options: bytes = b"", window: int = 65535
) -> Segment:
    return Segment(1, 2, sequence & 0xFFFFFFFF, acknowledgment, flags, window, options, memoryview(payload))
