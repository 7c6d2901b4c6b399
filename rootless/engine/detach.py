"""Detach keys: "ctrl-p,ctrl-q" -> bytes, and finding them in what a client types. Pure."""

from __future__ import annotations

from rootless.model.errors import InvalidParameter

DEFAULT = "ctrl-p,ctrl-q"
_CONTROL = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def parse_keys(text: str) -> bytes:
    """Raises InvalidParameter."""
    keys = bytearray()
    for word in (text or DEFAULT).split(","):
        if len(word) == 1 and word.isascii():
            keys += word.encode()
        elif word.startswith("ctrl-") and len(word) == 6:
            letter = word[5].lower()
            if letter in _CONTROL:
                keys.append(_CONTROL[letter])
            elif "a" <= letter <= "z":
                keys.append(ord(letter) - 96)
            else:
                raise InvalidParameter(f"Invalid detach keys ({text}) provided")
        else:
            raise InvalidParameter(f"Invalid detach keys ({text}) provided")
    return bytes(keys)


class KeyFilter:
    """Passes input on but for the keys; a beginning of them is held back until it is known what it is."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what to pass on, whether the keys were typed)."""
        out = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    self._matched = 0
                    return bytes(out), True
                continue
            if self._matched:
                out += self._keys[: self._matched]
                self._matched = 0
                if byte == self._keys[0]:
                    self._matched = 1
                    continue
            out.append(byte)
        return bytes(out), False
