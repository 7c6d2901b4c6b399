"""Execs that cannot be started."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from rootless.engine.execs import NO_LAUNCHER, Exec, Execs
from rootless.launcher.client import LauncherGone
from rootless.runtime.spec import ProcessSpec


def test_an_exec_whose_launcher_has_died_is_no_success() -> None:
    async def gone() -> None:
        raise LauncherGone("the launcher has died")

    async def body() -> None:
        async with trio.open_nursery() as nursery:
            execs = Execs(cast(Any, SimpleNamespace()), cast(Any, SimpleNamespace()), nursery)
            execs.link = cast(Any, SimpleNamespace(get=gone))
            made = Exec("id", cast(Any, SimpleNamespace(running=True, id="c")), {}, ProcessSpec(("true",)))
            with pytest.raises(LauncherGone):
                await execs.start(made)
            assert made.inspect()["ExitCode"] == NO_LAUNCHER
            assert made.finished.is_set()

    trio.run(body)
