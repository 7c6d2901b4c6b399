"""A command line that says what process it runs in, behind the real script and the real warm server.

serve SOCKET        the warm server with this command line
cold WORDS…         bin/rootless in this process, with this command line"""

from __future__ import annotations

import json
import os
import resource
import runpy
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import rootless.cli

SCRIPT = Path(__file__).parent.parent.parent / "bin" / "rootless"
SERVER = os.getpid()


def state() -> dict[str, object]:
    umask = os.umask(0)
    os.umask(umask)
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    descriptors = []
    for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
        try:
            descriptors.append((fd, os.get_inheritable(fd)))
        except OSError:
            continue
    return {
        "cwd": os.getcwd(),
        "umask": umask,
        "environment": {k: v for k, v in os.environ.items() if k not in ("ROOTLESS_WARM", "OLDPWD", "_")},
        "limits": [resource.getrlimit(limit) for limit in range(16)],
        "ignored": status["SigIgn"].strip(),
        "blocked": status["SigBlk"].strip(),
        "caught": status["SigCgt"].strip(),
        "nice": os.nice(0),
        "cpus": sorted(os.sched_getaffinity(0)),
        "inherited": [fd for fd, inheritable in descriptors if inheritable],
        "input": sys.stdin.read(),
        "argv": sys.argv[1:],
        "zone": time.strftime("%Z"),
        "buffering": [sys.stdout.line_buffering, sys.stdout.encoding, sys.stderr.encoding],
    }


def probe(words: Sequence[str] | None = None) -> int:
    what, *rest = sys.argv[1:] if words is None else words
    if what == "state":
        print(json.dumps(state(), sort_keys=True))
    elif what == "where":
        print("warm" if os.getppid() == SERVER else "cold")
    elif what == "exit":
        return int(rest[0])
    elif what == "raise":
        raise ValueError("on purpose")
    elif what == "leave":
        sys.exit(rest[0])
    elif what == "die":
        if rest[0] != "9":
            signal.signal(int(rest[0]), signal.SIG_DFL)
        os.kill(os.getpid(), int(rest[0]))
    elif what == "catch":
        signal.signal(signal.SIGTERM, lambda number, frame: os.write(1, b"caught\n") and os._exit(6))
        signal.signal(signal.SIGCONT, lambda number, frame: os.write(1, b"goes on\n") and None)
        os.write(1, b"ready\n")
        time.sleep(60)
    elif what == "sleep":
        print(os.getpid(), flush=True)
        time.sleep(60)
    return 0


def main() -> None:
    rootless.cli.main = probe  # type: ignore[assignment]
    if sys.argv[1] == "serve":
        from rootless.cli.warm import serve_warm

        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(sys.argv[2] + ".new")
        listener.listen(16)
        os.rename(sys.argv[2] + ".new", sys.argv[2])
        serve_warm(listener)
    sys.argv = ["rootless", *sys.argv[2:]]
    os.environ["ROOTLESS_WARM"] = "0"
    runpy.run_path(str(SCRIPT), run_name="__main__")


if __name__ == "__main__":
    main()
