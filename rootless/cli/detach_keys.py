"""Detach keys as users write them ("ctrl-p,ctrl-q"), and recognising them in what is typed. Pure.

The engine matches the keys and ends the stream; we only need to know that this was why it ended."""

from __future__ import annotations

from rootless.model.errors import InvalidParameter

DEFAULT = "ctrl-p,ctrl-q"
_SYMBOLS = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def key_bytes(text: str) -> bytes:
    """("ctrl-p,ctrl-q") -> b"\\x10\\x11". Raises InvalidParameter."""
    found = bytearray()
    for key in text.split(","):
        if len(key) == 1 and key.isascii():
            found.append(ord(key))
            continue
        letter = key[5:].lower() if key.lower().startswith("ctrl-") else ""
        if len(letter) == 1 and "a" <= letter <= "z":
            found.append(ord(letter) - ord("a") + 1)
        elif letter in _SYMBOLS and letter:
            found.append(_SYMBOLS[letter])
        else:
            raise InvalidParameter(f"invalid detach keys ({text}): unknown character: '{key}'")
    return bytes(found)


class DetachMatcher:
    """Tells whether the keys have been typed."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._seen = 0
        self.matched = False

    def feed(self, data: bytes) -> None:
        for byte in data:
            if self.matched or not self._keys:
                return
            if byte != self._keys[self._seen]:
                self._seen = 0
            if byte == self._keys[self._seen]:
                self._seen += 1
                self.matched = self._seen == len(self._keys)
