"""DNS messages (RFC 1035 4.1): the first question of a query, and answers to it. Nothing more: what we do not know
ourselves is passed on as it is."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

HEADER = struct.Struct("!HHHHHH")
HEADER_BYTES = 12
A, PTR, AAAA, INTERNET = 1, 12, 28, 1
NO_ERROR, SERVER_FAILURE = 0, 2
_RESPONSE, _AUTHORITATIVE, _RECURSION_AVAILABLE = 0x8000, 0x0400, 0x0080
_OPCODE, _RECURSION_DESIRED = 0x7800, 0x0100
_POINTER_TO_QUESTION = 0xC000 | HEADER_BYTES  # 4.1.4
MAX_NAME = 255
PLAIN_UDP_BYTES = 512
_TRUNCATED = 0x0200
_RECORD = struct.Struct("!HHHIH")  # of ours, before its data (4.1.3)
_OUR_EXTENSION = struct.pack("!BHHIH", 0, 41, 1232, 0, 0)  # an OPT record, RFC 6891 6.1.2


class Question(NamedTuple):
    """`name` in lower case without its last dot; `end` is where the message goes on."""

    name: str
    kind: int
    end: int


def is_query(message: bytes | memoryview) -> bool:
    return len(message) >= HEADER_BYTES and not message[2] & 0x80


def question(message: bytes | memoryview) -> Question | None:
    """Of a standard query for the Internet class with one question; None for anything else."""
    if not is_query(message):
        return None
    _, flags, count, answers, authorities, _ = HEADER.unpack_from(message)
    if flags & _OPCODE or count != 1 or answers or authorities:
        return None
    labels: list[bytes] = []
    position = HEADER_BYTES
    while position < len(message) and position - HEADER_BYTES < MAX_NAME:
        length = message[position]
        position += 1
        if length == 0:
            if position + 4 > len(message):
                return None
            kind, class_ = struct.unpack_from("!HH", message, position)
            if class_ != INTERNET:
                return None
            return Question(b".".join(labels).decode("latin-1").lower(), kind, position + 4)
        if length > 63 or position + length > len(message):  # a pointer: nothing before could be meant
            return None
        labels.append(bytes(message[position : position + length]))
        position += length
    return None


def emit_answers(query: bytes, asked: Question, answers: Sequence[bytes], ttl_seconds: int) -> bytes:
    """The query's own question with records of its name and kind; `answers` are their data. None: no such record."""
    flags = _RESPONSE | _AUTHORITATIVE | _RECURSION_AVAILABLE | (query[2] << 8 & _RECURSION_DESIRED)
    extended = has_extension(query, asked)
    made = HEADER.pack(query[0] << 8 | query[1], flags, 1, len(answers), 0, extended) + query[HEADER_BYTES : asked.end]
    for data in answers:
        made += _RECORD.pack(_POINTER_TO_QUESTION, asked.kind, INTERNET, ttl_seconds, len(data)) + data
    return made + _OUR_EXTENSION if extended else made


def has_extension(query: bytes, asked: Question) -> bool:
    """Whether an OPT record follows the question (RFC 6891 6.1.2)."""
    return query[asked.end : asked.end + 3] == b"\0\0\x29" and len(query) >= asked.end + 11


def udp_limit(query: bytes) -> int:
    """The longest answer that may be sent over UDP (RFC 1035 4.2.1, RFC 6891 6.2.3)."""
    asked = question(query)
    if asked is None or not has_extension(query, asked):
        return PLAIN_UDP_BYTES
    return max(PLAIN_UDP_BYTES, query[asked.end + 3] << 8 | query[asked.end + 4])


def truncated(answer: bytes, limit: int) -> bytes:
    """Of an answer of ours that is longer than `limit` bytes as many records as fit, with the word that there are more:
    who can comes back over TCP, who cannot has some."""
    number, flags, _, count, _, extended = HEADER.unpack_from(answer)
    extension = _OUR_EXTENSION if extended else b""
    end = HEADER_BYTES
    while answer[end]:
        end += 1 + answer[end]
    end, kept = end + 5, 0
    while kept < count:
        after = end + _RECORD.size + (answer[end + 10] << 8 | answer[end + 11])
        if after + len(extension) > limit:
            break
        end, kept = after, kept + 1
    head = HEADER.pack(number, flags | _TRUNCATED, 1, kept, 0, extended)
    return head + answer[HEADER_BYTES:end] + extension


def emit_name(name: str) -> bytes:
    """A name as labels. Raises ValueError for what is no name."""
    made = b""
    for label in name.rstrip(".").split("."):
        encoded = label.encode("latin-1")
        if not 0 < len(encoded) < 64:
            raise ValueError(f"{name!r} is no host name")
        made += bytes([len(encoded)]) + encoded
    if len(made) >= MAX_NAME:
        raise ValueError(f"{name!r} is too long for a host name")
    return made + b"\0"


def failure(query: bytes) -> bytes:
    """SERVFAIL for a query: its header and question, no records (4.1.1). Additional records of the query, EDNS for
    one, are left out."""
    asked = question(query)
    flags = (query[2] << 8 & (_OPCODE | _RECURSION_DESIRED)) | _RESPONSE | _RECURSION_AVAILABLE | SERVER_FAILURE
    body = query[HEADER_BYTES : asked.end] if asked is not None else b""
    return HEADER.pack(query[0] << 8 | query[1], flags, 1 if body else 0, 0, 0, 0) + body
