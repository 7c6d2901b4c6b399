"""For all tests: what the surroundings of the run must not change."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# a run in the background (nohup, `&`) has signals ignored, and every child would inherit that
for _number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP):
    signal.signal(_number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
# skopeo looks below /run/containers, which is closed to us where root has used podman, and that is an error to it
os.environ.setdefault("REGISTRY_AUTH_FILE", "/nonexistent/auth.json")
# how long an example takes says how busy the machine is, not whether the code is right
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
