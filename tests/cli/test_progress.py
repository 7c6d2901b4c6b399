"""docker's progress on a terminal: each id keeps its line."""

from __future__ import annotations

from rootless.cli.progress import Screen
from rootless.model.bars import drawn


def message(identity: str, status: str, current: int = 0, total: int = 0) -> dict[str, object]:
    detail = {"current": current, "total": total} if total else {}
    return {"id": identity, "status": status, "progressDetail": detail}


def test_lines_move_in_place() -> None:
    screen = Screen(120, 24)
    assert screen.show({"status": "Pulling from x", "id": "1"}) == "1: Pulling from x\n"
    assert screen.show(message("aa", "Pulling fs layer")) == "aa: Pulling fs layer\n"
    assert screen.show(message("bb", "Pulling fs layer")) == "bb: Pulling fs layer\n"
    bar = drawn(50, 100)
    assert screen.show(message("aa", "Downloading", 50, 100)) == f"\x1b[2A\x1b[2K\raa: Downloading {bar}\r\x1b[2B"
    assert screen.show(message("bb", "Pull complete")) == "\x1b[1A\x1b[2K\rbb: Pull complete\r\x1b[1B"
    assert screen.show({"status": "Digest: x"}) == "Digest: x\n"
    assert screen.show(message("bb", "x")).startswith("\x1b[2A")


def test_what_does_not_fit_is_cut_and_what_has_left_the_window_is_let_go() -> None:
    screen = Screen(20, 3)
    assert screen.show(message("a", "Downloading", 1, 100)) == "a: Downloading     \n"
    for number in range(3):
        screen.show(message(str(number), "Waiting"))
    assert screen.show(message("a", "Pull complete")) == ""


def test_a_narrow_terminal_has_numbers_only() -> None:
    assert Screen(80, 24).show(message("a", "Downloading", 1500, 3000)) == "a: Downloading    1.5kB/3kB\n"


def test_a_bar() -> None:
    assert drawn(0, 1000) == f"[>{' ' * 49}]       0B/1kB"
    assert drawn(1500, 3000) == f"[{'=' * 25}>{' ' * 24}]    1.5kB/3kB"
    assert drawn(3000, 3000) == f"[{'=' * 50}]      3kB/3kB"
