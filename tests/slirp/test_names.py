"""Names, leases and the messages about them: the pure parts."""

from __future__ import annotations

import ipaddress
import socket
import struct
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from slirp.config import NetworkConfig
from slirp.host.resolvers import Resolvers
from slirp.stack.leases import Leases
from slirp.stack.names import Names
from slirp.wire import dhcp, dns

FOUR, OTHER, SIX = socket.inet_aton("10.0.0.2"), socket.inet_aton("10.0.0.3"), ipaddress.ip_address("fd00::2").packed
MAC = bytes.fromhex("0242ac110002")


def query(name: str, kind: int = dns.A, extension: bytes = b"") -> bytes:
    head = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, bool(extension))
    return head + dns.emit_name(name) + struct.pack("!HH", kind, 1) + extension


def records(answer: bytes | None) -> list[bytes]:
    """Their data: every one has a name of two bytes."""
    assert answer is not None
    at = dns.HEADER_BYTES
    while answer[at]:
        at += 1 + answer[at]
    at += 5
    found = []
    for _ in range(struct.unpack_from("!H", answer, 6)[0]):
        length = struct.unpack_from("!H", answer, at + 10)[0]
        found.append(answer[at + 12 : at + 12 + length])
        at += 12 + length
    return found


def names() -> Names:
    made = Names("lab")
    made.put("one", [FOUR, SIX], ["db", "Store"], {})
    made.put("two", [OTHER], ["web", "store"], {"elsewhere": ["192.0.2.9"], "db": ["192.0.2.8"]})
    return made


def test_names_aliases_and_the_networks_own_name() -> None:
    made = names()
    for name in ("db", "DB", "db.lab", "Db.Lab"):
        assert records(made.answer(query(name), "one")) == [FOUR]
    assert records(made.answer(query("db", dns.AAAA), "one")) == [SIX]
    assert records(made.answer(query("db", 15), "one")) == []
    assert made.answer(query("nowhere"), "one") is None


def test_several_answers_take_turns() -> None:
    made = names()
    firsts = {records(made.answer(query("store"), "one"))[0] for _ in range(4)}
    assert firsts == {FOUR, OTHER}


def test_private_names_are_seen_by_their_owner_alone_and_first() -> None:
    made = names()
    assert records(made.answer(query("elsewhere"), "two")) == [socket.inet_aton("192.0.2.9")]
    assert records(made.answer(query("db"), "two")) == [socket.inet_aton("192.0.2.8")]
    assert made.answer(query("elsewhere"), "one") is None


def test_reverse_lookups() -> None:
    made = names()
    assert records(made.answer(query("2.0.0.10.in-addr.arpa", dns.PTR), "two")) == [dns.emit_name("db.lab")]
    reverse6 = ipaddress.ip_address(SIX).reverse_pointer
    assert records(made.answer(query(reverse6, dns.PTR), "two")) == [dns.emit_name("db.lab")]
    assert records(made.answer(query("9.2.0.192.in-addr.arpa", dns.PTR), "two")) == [dns.emit_name("elsewhere")]
    assert made.answer(query("9.0.0.10.in-addr.arpa", dns.PTR), "two") is None
    made.remove("one")
    assert made.answer(query("2.0.0.10.in-addr.arpa", dns.PTR), "two") is None


def test_a_long_answer_is_cut_for_udp() -> None:
    made = Names()
    for number in range(100):
        made.put(str(number), [bytes([10, 0, 0, number])], ["all"], {})
    asked = query("all")
    answer = made.answer(asked, "0")
    assert answer is not None
    assert len(answer) > dns.udp_limit(asked) == 512
    for limit in range(dns.HEADER_BYTES + 9, len(answer)):
        cut = dns.truncated(answer, limit)
        assert cut[2] & 0x02
        assert limit - 16 < len(cut) <= limit
        assert records(cut) == records(answer)[: len(records(cut))]
    assert len(records(dns.truncated(answer, 512))) == 30  # who has no TCP has some; there were none
    extended = query("all", extension=struct.pack("!BHHIH", 0, 41, 4096, 0, 0))
    assert dns.udp_limit(extended) == 4096
    whole = made.answer(extended, "0")
    assert whole is not None
    assert len(records(whole)) == 100
    cut = dns.truncated(whole, 511)
    assert (len(records(cut)), len(cut), cut[-11:]) == (29, 496, whole[-11:])


@given(st.binary(max_size=80))
def test_any_bytes_as_a_query(data: bytes) -> None:
    names().answer(data, "two")
    names().answer(query("db")[: len(data)] + data, "two")
    dns.udp_limit(data)


# ------------------------------------------------------------------------------------------------ leases
def leases(**config: object) -> Leases:
    made = {"name": "lab", "subnet4": "10.0.0.0/24", "gateway4": "10.0.0.1", "mtu": 1400, **config}
    return Leases(NetworkConfig.from_dict(made), bytes(6), socket.inet_aton("10.0.0.1"), b"")


def ask(kind: int, mac: bytes = MAC, **options: bytes) -> bytes:
    numbers = {getattr(dhcp, name.upper()): data for name, data in options.items()}
    return dhcp.Message(1, 99, 0, bytes(4), bytes(4), mac, {dhcp.KIND: bytes([kind]), **numbers}).emit()


def test_a_guest_is_offered_its_own_address_and_gets_it() -> None:
    offer = dhcp.parse(leases().answer(ask(dhcp.DISCOVER), MAC, FOUR, ["db"]) or b"")
    assert offer is not None
    assert (offer.kind, offer.yours, offer.transaction) == (dhcp.OFFER, FOUR, 99)
    assert offer.options[dhcp.ROUTER] == offer.options[dhcp.DNS] == socket.inet_aton("10.0.0.1")
    assert offer.options[dhcp.MTU] == struct.pack("!H", 1400)
    assert offer.options[dhcp.HOST_NAME] == b"db"
    acknowledged = dhcp.parse(leases().answer(ask(dhcp.REQUEST, requested_address=FOUR), MAC, FOUR, []) or b"")
    assert acknowledged is not None
    assert acknowledged.kind == dhcp.ACK


def test_nobody_gets_another_address() -> None:
    refused = dhcp.parse(leases().answer(ask(dhcp.REQUEST, requested_address=OTHER), MAC, FOUR, []) or b"")
    assert refused is not None
    assert (refused.kind, refused.yours) == (dhcp.NAK, bytes(4))
    assert leases().answer(ask(dhcp.DISCOVER, mac=bytes(6)), MAC, FOUR, []) is None
    assert leases().answer(ask(dhcp.REQUEST, server=OTHER), MAC, FOUR, []) is None


def test_an_internal_network_has_no_router() -> None:
    offer = dhcp.parse(leases(internal=True).answer(ask(dhcp.DISCOVER), MAC, FOUR, []) or b"")
    assert offer is not None
    assert dhcp.ROUTER not in offer.options


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_as_dhcp(data: bytes, cookie: bool) -> None:
    data = ask(dhcp.DISCOVER)[:240] + data if cookie else data
    leases().answer(data, MAC, FOUR, [])
    leases().answer6(data)


# ------------------------------------------------------------------------------------------------ the host's resolvers
def test_a_changed_resolv_conf_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    resolvers = Resolvers((), str(path))
    assert resolvers.addresses() == ()
    path.write_text("# nameserver 1.1.1.1\nsearch lab\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver x\n")
    assert resolvers.addresses() == ("192.0.2.53", "fe80::1%eth0")
    other = tmp_path / "new"
    other.write_text("nameserver 127.0.0.53\n")
    other.rename(path)  # as resolvconf and NetworkManager do it
    assert resolvers.addresses() == ("127.0.0.53",)
    path.unlink()
    assert resolvers.addresses() == ()
