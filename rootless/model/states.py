"""The life of a container: one table of what may follow what. Pure. The words are the Engine API's (ContainerState)."""

from __future__ import annotations

from rootless.model.errors import Conflict, NotModified

CREATED, RUNNING, EXITED, REMOVING, DEAD = "created", "running", "exited", "removing", "dead"

# (state, what is asked) -> the state that follows
TRANSITIONS: dict[tuple[str, str], str] = {
    (CREATED, "start"): RUNNING,
    (EXITED, "start"): RUNNING,
    (RUNNING, "exit"): EXITED,
    (CREATED, "remove"): REMOVING,
    (EXITED, "remove"): REMOVING,
    (DEAD, "remove"): REMOVING,
    (CREATED, "fail"): CREATED,  # a start that failed leaves the container as it was
    (EXITED, "fail"): EXITED,
}


def follow(state: str, asked: str, name: str) -> str:
    """The state that follows. Raises NotModified (start of a running one), Conflict with docker's words."""
    following = TRANSITIONS.get((state, asked))
    if following is not None:
        return following
    if (state, asked) == (RUNNING, "start"):
        raise NotModified("container already started")
    if (state, asked) == (RUNNING, "remove"):
        raise Conflict(
            f'cannot remove container "{name}": container is running: '
            "stop the container before removing or force remove"
        )
    if state == REMOVING:
        raise Conflict(f"removal of container {name} is already in progress")
    raise Conflict(f"cannot {asked} container {name}: it is {state}")
