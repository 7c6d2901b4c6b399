"""Moving progress on a terminal, with rich. Imported only when there is something to show: rich costs 60 ms."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn


def show_moving(messages: Iterable[dict[str, Any]], fd: int) -> None:
    """A bar for each id that has numbers, lines for the rest. Raises what `messages` raises."""
    with os.fdopen(os.dup(fd), "w", encoding="utf-8") as file:
        console = Console(file=file, highlight=False)
        columns = (
            TextColumn("{task.fields[id]}: {task.description}", markup=False),
            BarColumn(bar_width=30),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        bars: dict[str, TaskID] = {}
        with Progress(*columns, console=console) as progress:
            for message in messages:
                _show(message, progress, bars)


def _show(message: dict[str, Any], progress: Progress, bars: dict[str, TaskID]) -> None:
    text = str(message.get("status") or message.get("stream") or "").rstrip("\n")
    identity = str(message.get("id") or "")
    detail = message.get("progressDetail") or {}
    if not identity or ("total" not in detail and identity not in bars):
        if text:
            progress.console.print(f"{identity}: {text}" if identity else text, markup=False)
        return
    if identity not in bars:
        bars[identity] = progress.add_task(text, total=None, id=identity)
    total = detail.get("total") or None
    current = detail.get("current")
    progress.update(bars[identity], description=text, total=total, completed=current)
    if not detail:
        task = next(task for task in progress.tasks if task.id == bars[identity])
        progress.update(bars[identity], completed=task.total or task.completed)
