"""A bar as docker draws it in its progress messages. Pure."""

from __future__ import annotations

_WIDTH = 50


def drawn(current: int, total: int) -> str:
    """As docker draws it: `[=====>     ]  1.2MB/3.4MB`."""
    done = min(_WIDTH, _WIDTH * current // total) if total > 0 else 0
    head = "=" * done + (">" if done < _WIDTH else "")
    return f"[{head.ljust(_WIDTH)}] {numbers(current, total)}"


def numbers(current: int, total: int) -> str:
    """`   1.2MB/3.4MB`."""
    return f"{_size(current):>8}/{_size(total)}"


def _size(count: float) -> str:
    """Four significant digits and decimal units, as docker's go-units."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.4g}{unit}"
