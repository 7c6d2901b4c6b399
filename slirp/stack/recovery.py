"""Which of the bytes sent to the guest are lost, and how many may be on the way at once. Pure. Used by `outgoing`,
which has one from the moment something is amiss until all is well again: while nothing is, nothing is counted.

What was sent is a list of pieces: ranges that were sent at one time. The guest's selective acknowledgments (RFC 2018)
and times of sending tell of each whether it has arrived (RFC 8985, RACK): what was sent before something that has
arrived, a reordering window ago, is lost, and that holds for what was sent again too. What is neither lost nor has
arrived is on the way: the pipe (RFC 6675).

The wire to the guest is a device, not a network: a loss says little about congestion, unless the device itself
refuses frames. So the window of what may be on the way shrinks with losses down to FLOOR, where a bad wire is used
well and no queue is flooded, and grows by an eighth a round trip until it is no limit any more: for the flow at all, or
for one that sends little, as it was for a whole round trip (RFC 7661 4.1: no more than half of the window)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from slirp.stack.sequence import MASK, distance

FLOOR = 128 << 10  # bytes
AFTER_TIMEOUT = 10  # segments that are sent again at once: RFC 6928's initial window
SHRINK, GROWTH = 0.7, 8  # CUBIC's factor, RFC 9438 4.6
DUPLICATES = 3  # segments that arrive out of turn before reordering is ruled out, RFC 8985 6.2
MAX_PIECES = 1024  # a guest may tell of every second byte
RETRY_SECONDS = 0.001  # until a device that was full is tried again
NEVER = float("inf")


class _Piece:
    """Positions count from where the recovery began and do not wrap."""

    __slots__ = ("after", "again", "arrived", "first", "lost", "sent_at")

    def __init__(self, first: int, after: int, sent_at: float) -> None:
        self.first, self.after, self.sent_at = first, after, sent_at
        self.again = self.lost = self.arrived = False

    def cut(self, position: int) -> _Piece:
        """Keep what is before it; the rest."""
        rest = _Piece(position, self.after, self.sent_at)
        rest.again, rest.lost, rest.arrived = self.again, self.lost, self.arrived
        self.after = position
        return rest


class Recovery:
    """`pipe` and `window` in bytes. `due` is when `look` should be called again, whatever comes. `round_trip` is what
    the last acknowledgment measured, in seconds, or -1."""

    __slots__ = (
        "_end",
        "_grown",
        "_highest",
        "_latest",
        "_limit",
        "_most",
        "_mss",
        "_origin",
        "_pieces",
        "_recover",
        "_reordered",
        "_round",
        "_shortest",
        "_spare",
        "_trip",
        "_una",
        "due",
        "pipe",
        "round_trip",
        "window",
    )

    def __init__(self, unacknowledged: int, sendings: Iterable[tuple[int, float]], mss: int, limit: int) -> None:
        """`sendings` are what was sent from `unacknowledged` on: lengths and times. `limit` is what the flow may send
        at most."""
        self._origin, self._una, self._end = unacknowledged, 0, 0
        self._mss, self._limit, self.window = mss, limit, limit
        self._pieces: list[_Piece] = []
        self.pipe = 0
        self.due = NEVER
        self._grown = 0  # what the window is to grow by, in parts of GROWTH
        self._round = 0  # a round trip is over once this position is acknowledged
        self._most = 0  # that was on the way in this one
        self._spare = False  # half of the window was left in the last
        self._recover = 0  # losses before this position are of one episode
        self._highest = 0  # the end of what has arrived furthest
        self._latest = (-1.0, 0)  # of what was sent last and has arrived: when, and its end
        self._trip = 0.0  # its round trip
        self._shortest = NEVER
        self._reordered = False
        self.round_trip = -1.0
        for length, when in sendings:
            self.sent(length, when)

    @property
    def troubled(self) -> bool:
        """Whether anything is lost, sent again, or has arrived out of turn."""
        return any(piece.lost or piece.again or piece.arrived for piece in self._pieces)

    @property
    def over(self) -> bool:
        """All is well, and the window no limit."""
        return (self._spare or self.window >= self._limit) and self.due == NEVER and not self.troubled

    @property
    def repairing(self) -> bool:
        """Something that was found lost is not acknowledged yet."""
        return self._una < self._recover

    def sent(self, length: int, now: float) -> None:
        """New bytes."""
        last = self._pieces[-1] if self._pieces else None
        end = self._end + length
        if (
            last is not None
            and not (last.again or last.lost or last.arrived)
            and (last.sent_at == now or len(self._pieces) >= MAX_PIECES)
        ):
            last.after, last.sent_at = end, now
        else:
            self._pieces.append(_Piece(self._end, end, now))
        self._end = end
        self._put(length)

    def _put(self, length: int) -> None:
        """On the way."""
        self.pipe += length
        if self.pipe > self._most:
            self._most = self.pipe

    def refused(self, length: int, now: float) -> None:
        """The device did not take the last `length` new bytes."""
        last = self._pieces[-1]
        if last.after - length > last.first:
            last = last.cut(last.after - length)
            self._pieces.append(last)
        self._give_up(last)
        self.full(now)

    def full(self, now: float) -> None:
        """The device takes no more than it has now."""
        self.window = max(self._mss, min(self.window, self.pipe))
        self.due = min(self.due, now + RETRY_SECONDS)
        self._new_round()

    # ------------------------------------------------------------------------------------------------ the guest speaks
    def acknowledged(self, acknowledgment: int, blocks: Sequence[tuple[int, int]], now: float) -> bool:
        """An acknowledgment that is not before the last one, with its selective ones. Whether it tells of anything
        new."""
        self.round_trip = -1.0
        una = self._una
        position = una + distance(acknowledgment, (self._origin + una) & MASK)
        before = self.pipe, una
        delivered = self._pass(position, now) if position > una else 0
        for first, after in blocks:
            start = position + distance(first, acknowledgment)
            end = position + distance(after, acknowledgment)
            if position < start < end <= self._end:  # else it is of before, or invented
                delivered += self._mark(start, end, now)
        if delivered:
            self._grow(delivered)
            if position >= self._round:
                self._spare = una >= self._recover and 2 * self._most <= self.window  # not while it was repaired
                self._round, self._most = self._end, self.pipe
        return bool(delivered) or (self.pipe, self._una) != before

    def _grow(self, delivered: int) -> None:
        """An eighth of it counts, however few bytes come at once."""
        self._grown += delivered if self.window >= FLOOR else GROWTH * delivered
        whole, self._grown = divmod(self._grown, GROWTH)
        self.window = min(self._limit, self.window + whole)

    def _pass(self, position: int, now: float) -> int:
        """All up to here has arrived."""
        pieces, done, delivered = self._pieces, 0, 0
        for piece in pieces:
            if piece.first >= position:
                break
            if piece.after > position:
                rest = piece.cut(position)
                pieces.insert(done + 1, rest)
            done += 1
            if not piece.arrived:
                delivered += piece.after - piece.first
                self._arrived(piece, now)
            if piece.after == position:
                break
        del pieces[:done]
        self._una = position
        return delivered

    def _mark(self, start: int, end: int, now: float) -> int:
        """A block that the guest has out of turn."""
        pieces = self._pieces
        index = bisect_right(pieces, start, key=lambda piece: piece.first) - 1
        if pieces[index].arrived and pieces[index].after >= end:
            return 0
        if len(pieces) >= MAX_PIECES:
            return 0
        delivered = 0
        if pieces[index].first < start and not pieces[index].arrived:
            pieces.insert(index + 1, pieces[index].cut(start))
            index += 1
        stop = index
        while stop < len(pieces) and pieces[stop].first < end:
            piece = pieces[stop]
            stop += 1
            if piece.arrived:
                continue
            if piece.after > end:
                pieces.insert(stop, piece.cut(end))
            delivered += piece.after - piece.first
            self._arrived(piece, now)
            piece.arrived, piece.lost = True, False
        if index and pieces[index - 1].arrived:
            index -= 1
        if stop < len(pieces) and pieces[stop].arrived:
            stop += 1
        pieces[index].after = pieces[stop - 1].after  # one piece of those that have arrived side by side
        del pieces[index + 1 : stop]
        return delivered

    def _arrived(self, piece: _Piece, now: float) -> None:
        """RFC 8985 6.2, steps 1 to 3."""
        if not piece.lost:
            self.pipe -= piece.after - piece.first
        trip = now - piece.sent_at
        if not piece.again:
            self._shortest = min(self._shortest, trip)
            self.round_trip = trip
            if piece.after < self._highest:
                self._reordered = True
        self._highest = max(self._highest, piece.after)
        if piece.again and trip < self._shortest < NEVER:
            return  # it is the first sending that has arrived, most likely
        if (piece.sent_at, piece.after) > self._latest:
            self._latest, self._trip = (piece.sent_at, piece.after), trip

    # ------------------------------------------------------------------------------------------------ what is lost
    def look(self, now: float) -> None:
        """Find what is lost: RFC 8985 6.2, steps 4 and 5."""
        self.due = NEVER
        when, end = self._latest
        patience = self._trip if self._settled() else self._trip * 1.25
        found = False
        for piece in self._pieces:
            if piece.lost or piece.arrived or piece.sent_at > when or (piece.sent_at == when and piece.after > end):
                continue
            until = piece.sent_at + patience
            if until <= now:
                self._give_up(piece)
                found = True
            elif until < self.due:
                self.due = until
        if found:
            self._episode()

    def _settled(self) -> bool:
        """Whether what is missing need not be waited for."""
        if self._reordered:
            return False
        arrived = sum(piece.after - piece.first for piece in self._pieces if piece.arrived)
        return self.repairing or arrived >= DUPLICATES * self._mss

    def _give_up(self, piece: _Piece) -> None:
        piece.lost = True
        self.pipe -= piece.after - piece.first

    def _episode(self) -> None:
        if not self.repairing:
            flight = min(self.window, self._end - self._una)
            self.window = max(min(FLOOR, self.window), int(flight * SHRINK))
            self._recover = self._end
            self._new_round()

    def _new_round(self) -> None:
        """The window has become smaller: whether it is a limit is to be seen."""
        self._round, self._most, self._spare = self._end, self.pipe, False

    def head_lost(self) -> None:
        """By duplicate acknowledgments of a guest that has no selective ones (RFC 6582)."""
        head = self._pieces[0] if self._pieces else None
        if head is not None and not (head.lost or head.arrived):
            if head.after - head.first > self._mss:
                self._pieces.insert(1, head.cut(head.first + self._mss))
            self._give_up(head)
            self._episode()

    def timed_out(self) -> None:
        """Nothing is on the way any more. A guest may have taken back what it had out of turn (RFC 2018 8): then that
        is what it lacks first."""
        taken_back = bool(self._pieces) and self._pieces[0].arrived
        for piece in self._pieces:
            if taken_back:
                piece.arrived = False
            piece.lost = not piece.arrived
        self.pipe = 0
        self.due = NEVER
        self.window = min(self.window, AFTER_TIMEOUT * self._mss)
        self._recover = self._end
        self._new_round()

    # ------------------------------------------------------------------------------------------------ sending again
    def next_lost(self) -> tuple[int, int] | None:
        """The sequence number and length of what should be sent again first."""
        for piece in self._pieces:
            if piece.lost:
                return (self._origin + piece.first) & MASK, piece.after - piece.first
        return None

    def resent(self, length: int, now: float) -> None:
        """So much of it has been."""
        pieces = self._pieces
        index = next(index for index, piece in enumerate(pieces) if piece.lost)
        piece = pieces[index]
        if piece.after - piece.first > length:
            pieces.insert(index + 1, piece.cut(piece.first + length))
        piece.lost, piece.again, piece.sent_at = False, True, now
        self._put(piece.after - piece.first)
        before = pieces[index - 1] if index else None
        if before is not None and before.again and before.sent_at == now and not (before.arrived or before.lost):
            before.after = piece.after
            del pieces[index]

    def tail(self) -> None:
        """The last segment, to be sent as a probe: then it is the next that is lost, but for what is already."""
        last = self._pieces[-1]
        if last.after - last.first > self._mss:
            last = last.cut(last.after - self._mss)
            self._pieces.append(last)
        if not last.lost:
            self._give_up(last)
