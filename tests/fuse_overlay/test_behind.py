"""Calls in a thread of their own."""

from __future__ import annotations

import hashlib
import threading
import time

from fuse_overlay.behind import Behind


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "behind"]


def test_calls_keep_their_order_and_are_waited_for() -> None:
    behind, total = Behind(), hashlib.sha256()
    pieces = [bytes([number]) * 100_000 for number in range(50)]
    for piece in pieces:
        behind.call(total.update, piece)
    behind.wait()
    assert total.digest() == hashlib.sha256(b"".join(pieces)).digest()
    behind.close()


def test_it_does_not_wait_for_the_call_it_was_given() -> None:
    behind, go, done = Behind(), threading.Event(), []
    behind.call(lambda argument: (go.wait(10), done.append(argument)), b"one")
    assert not done
    go.set()
    behind.wait()
    assert done == [b"one"]
    behind.close()


def test_no_thread_is_left() -> None:
    before = len(threads())
    never_used = Behind()
    never_used.close()
    used = Behind()
    used.call(lambda argument: None, b"")
    used.close()
    used.close()
    end = time.monotonic() + 10
    while len(threads()) > before and time.monotonic() < end:
        time.sleep(0.01)
    assert len(threads()) == before
