"""The decisions of the union and its merging, on a tree in memory, against a model that knows no layers."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fuse_overlay.union import decisions
from fuse_overlay.union.decisions import Move, Refusal, Removal, Seen
from fuse_overlay.union.merge import WHITED_OUT, merged

PATHS = st.sampled_from([b"a", b"b", b"d", b"d/a", b"d/b", b"d/d", b"d/d/a", b"e", b"e/a", b"e/d"])
WHITEOUT = "whiteout"


@dataclass
class Dir:
    """A directory of a layer, or of the model; `opaque` if of an upper; `image` in the model: it came with a layer."""

    names: dict[bytes, Dir | str] = field(default_factory=dict)
    opaque: bool = False
    image: bool = False


class Refused(Exception):
    pass


def split(path: bytes) -> tuple[bytes, bytes]:
    above, _, name = path.rpartition(b"/")
    return above, name


class Overlay:
    """Layers and an upper in memory; does what `decisions` say."""

    def __init__(self, lowers: list[Dir]) -> None:
        self.lowers = lowers
        self.upper = Dir()

    def stack(self, path: bytes) -> tuple[Dir | None, list[tuple[int, Dir]]]:
        """A directory in the upper, and the lower ones that show through. Raises Refused (ENOENT, ENOTDIR)."""
        upper: Dir | None = self.upper
        lowers = list(enumerate(self.lowers))
        for name in path.split(b"/") if path else []:
            found = self.look(upper, lowers, name)
            if found is None:
                raise Refused(errno.ENOENT)
            if isinstance(found, str):
                raise Refused(errno.ENOTDIR)
            upper, lowers = found
        return upper, lowers

    def look(
        self, upper: Dir | None, lowers: list[tuple[int, Dir]], name: bytes
    ) -> str | tuple[Dir | None, list[tuple[int, Dir]]] | None:
        if name not in self.shown(upper, lowers):
            return None
        mine = upper.names.get(name) if upper else None
        if isinstance(mine, str):
            return mine
        below = [] if mine is not None and mine.opaque else self.below(lowers, name)
        if mine is None and isinstance(below, str):
            return below
        return mine, below if isinstance(below, list) else []

    def below(self, lowers: list[tuple[int, Dir]], name: bytes) -> list[tuple[int, Dir]] | str:
        found: list[tuple[int, Dir]] = []
        for number, lower in lowers:
            entry = lower.names.get(name)
            if entry is None:
                continue
            if isinstance(entry, str):
                return found if found or entry == WHITEOUT else entry
            found.append((number, entry))
        return found

    def shown(self, upper: Dir | None, lowers: list[tuple[int, Dir]]) -> list[bytes]:
        mine = [(name, entry == WHITEOUT) for name, entry in upper.names.items()] if upper else []
        rest = [
            [(name, WHITED_OUT if entry == WHITEOUT else 1) for name, entry in lower.names.items()]
            for _, lower in lowers
        ]
        return list(merged(mine, rest, None))

    def seen(self, path: bytes) -> tuple[Seen | None, bool]:
        """(what is there, whether something is below)."""
        above, name = split(path)
        upper, lowers = self.stack(above)
        rest = self.below(lowers, name)
        below = bool(rest)
        found = self.look(upper, lowers, name)
        if found is None:
            return None, below
        in_upper = upper is not None and name in upper.names
        if isinstance(found, str):
            return Seen(False, in_upper, below), below
        return Seen(True, in_upper, below, bool(found[1]), not self.shown(*found)), below

    def made(self, path: bytes) -> Dir:
        """The directory in the upper, copied up."""
        at = self.upper
        for name in path.split(b"/") if path else []:
            entry = at.names.setdefault(name, Dir())
            assert isinstance(entry, Dir)
            at = entry
        return at

    # -------------------------------------------------------------------------------------------- changes
    def create(self, path: bytes, content: str, directory: bool) -> None:
        found, below = self.seen(path)
        if found is not None:
            raise Refused(errno.EEXIST)
        above, name = split(path)
        self.made(above).names[name] = Dir(opaque=below) if directory else content

    def remove(self, path: bytes, directory: bool) -> None:
        found, _ = self.seen(path)
        if found is None:
            raise Refused(errno.ENOENT)
        if found.directory != directory:
            raise Refused(errno.EISDIR if found.directory else errno.ENOTDIR)
        decision = decisions.removal(found)
        if isinstance(decision, Refusal):
            raise Refused(decision.errno)
        above, name = split(path)
        if decision is Removal.UNLINK:
            del self.made(above).names[name]
        else:
            self.made(above).names[name] = WHITEOUT

    def content(self, path: bytes) -> str:
        above, name = split(path)
        found = self.look(*self.stack(above), name)
        assert isinstance(found, str)
        return found

    def rename(self, path: bytes, new: bytes, flags: int) -> None:
        source, _ = self.seen(path)
        target, below = self.seen(new)
        if source is None:
            raise Refused(errno.ENOENT)
        plan = decisions.move(source, target, below, flags)
        if isinstance(plan, Refusal):
            raise Refused(plan.errno)
        assert isinstance(plan, Move)
        for copies, at in ((plan.copy_up, path), (plan.copy_up_target, new)):
            if copies:
                above, name = split(at)
                self.made(above).names[name] = self.content(at)
        (above, name), (new_above, new_name) = split(path), split(new)
        one, other = self.made(above), self.made(new_above)
        moved = one.names.pop(name)
        if isinstance(moved, Dir):
            moved.opaque = moved.opaque or plan.opaque
        replaced = other.names.pop(new_name, None)
        other.names[new_name] = moved
        if plan.exchange:
            assert replaced is not None
            if isinstance(replaced, Dir):
                replaced.opaque = replaced.opaque or plan.opaque_target
            one.names[name] = replaced
        elif plan.leave_whiteout:
            one.names[name] = WHITEOUT

    def flat(self, path: bytes = b"") -> dict[bytes, str]:
        found: dict[bytes, str] = {}
        upper, lowers = self.stack(path)
        for name in self.shown(upper, lowers):
            below = path + b"/" + name if path else name
            entry = self.look(upper, lowers, name)
            if isinstance(entry, str):
                found[below] = entry
            else:
                found |= {below: "/", **self.flat(below)}
        return found


class Model:
    """One tree. A directory that came with an image cannot be moved."""

    def __init__(self) -> None:
        self.root = Dir(image=True)

    def parent(self, path: bytes) -> tuple[Dir, bytes]:
        above, name = split(path)
        at = self.root
        for part in above.split(b"/") if above else []:
            entry = at.names.get(part)
            if entry is None:
                raise Refused(errno.ENOENT)
            if isinstance(entry, str):
                raise Refused(errno.ENOTDIR)
            at = entry
        return at, name

    def create(self, path: bytes, content: str, directory: bool) -> None:
        at, name = self.parent(path)
        if name in at.names:
            raise Refused(errno.EEXIST)
        at.names[name] = Dir() if directory else content

    def remove(self, path: bytes, directory: bool) -> None:
        at, name = self.parent(path)
        entry = at.names.get(name)
        if entry is None:
            raise Refused(errno.ENOENT)
        if isinstance(entry, Dir) != directory:
            raise Refused(errno.EISDIR if isinstance(entry, Dir) else errno.ENOTDIR)
        if isinstance(entry, Dir) and entry.names:
            raise Refused(errno.ENOTEMPTY)
        del at.names[name]

    def rename(self, path: bytes, new: bytes, flags: int) -> None:
        at, name = self.parent(path)
        to, new_name = self.parent(new)
        entry, replaced = at.names.get(name), to.names.get(new_name)
        if entry is None:
            raise Refused(errno.ENOENT)
        if isinstance(entry, Dir) and entry.image:
            raise Refused(errno.EXDEV)
        if flags == 2:
            if replaced is None:
                raise Refused(errno.ENOENT)
            if isinstance(replaced, Dir) and replaced.image:
                raise Refused(errno.EXDEV)
            at.names[name], to.names[new_name] = replaced, entry
            return
        if replaced is not None:
            if flags == 1:
                raise Refused(errno.EEXIST)
            if isinstance(entry, Dir) != isinstance(replaced, Dir):
                raise Refused(errno.ENOTDIR if isinstance(entry, Dir) else errno.EISDIR)
            if isinstance(replaced, Dir) and replaced.names:
                raise Refused(errno.ENOTEMPTY)
        del at.names[name]
        to.names[new_name] = entry

    def flat(self) -> dict[bytes, str]:
        def walk(at: Dir, path: bytes) -> dict[bytes, str]:
            found: dict[bytes, str] = {}
            for name, entry in at.names.items():
                below = path + b"/" + name if path else name
                found |= {below: entry} if isinstance(entry, str) else {below: "/", **walk(entry, below)}
            return found

        return walk(self.root, b"")


class Semantics(RuleBasedStateMachine):
    @initialize(layers=st.lists(st.dictionaries(PATHS, st.sampled_from(["one", "two", WHITEOUT])), max_size=3))
    def begin(self, layers: list[dict[bytes, str]]) -> None:
        """The first layer is the highest; the model has them laid upon each other from the lowest."""
        lowers = []
        self.model = Model()
        for layer in reversed(layers):
            made = Dir()
            for path, content in sorted(layer.items()):
                self.lay(made, path, content)
            lowers.insert(0, made)
        self.overlay = Overlay(lowers)
        for made in reversed(lowers):
            self.apply(self.model.root, made)

    def lay(self, top: Dir, path: bytes, content: str) -> None:
        *above, name = path.split(b"/")
        for part in above:
            entry = top.names.setdefault(part, Dir())
            if isinstance(entry, str):
                return
            top = entry
        top.names[name] = Dir() if name in (b"d", b"e") and content != WHITEOUT else content

    def apply(self, to: Dir, layer: Dir) -> None:
        for name, entry in layer.names.items():
            if entry == WHITEOUT:
                to.names.pop(name, None)
            elif isinstance(entry, str):
                to.names[name] = entry
            else:
                below = to.names.get(name)
                if not isinstance(below, Dir):
                    below = to.names[name] = Dir(image=True)
                self.apply(below, entry)

    def both(self, method: str, *arguments: object) -> None:
        results = []
        for side in (self.overlay, self.model):
            try:
                results.append(getattr(side, method)(*arguments))
            except Refused as refused:
                results.append(errno.errorcode[refused.args[0]])
        assert results[0] == results[1]

    @rule(path=PATHS, content=st.sampled_from(["x", "y"]), directory=st.booleans())
    def create(self, path: bytes, content: str, directory: bool) -> None:
        self.both("create", path, content, directory)

    @rule(path=PATHS, directory=st.booleans())
    def remove(self, path: bytes, directory: bool) -> None:
        self.both("remove", path, directory)

    @rule(path=PATHS, new=PATHS, flags=st.sampled_from([0, 0, 0, 1, 2, 2]))
    def rename(self, path: bytes, new: bytes, flags: int) -> None:
        inside = new.startswith(path + b"/") or path.startswith(new + b"/") or path == new
        if not inside:  # the kernel sees to these itself
            self.both("rename", path, new, flags)

    @invariant()
    def same(self) -> None:
        if hasattr(self, "model"):
            assert self.overlay.flat() == self.model.flat()


TestSemantics = Semantics.TestCase
TestSemantics.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
