"""The addresses of a peer: a name may have several, and ``localhost`` is this machine in both families."""

from __future__ import annotations

import socket

from dicom_node.config.values import address_of

_LOOPBACK = ("127.0.0.1", "::1")


def plain(address: str) -> str:
    """An address as it is written in a configuration: an IPv4 caller of an IPv6 socket (::ffff:192.0.2.1) as IPv4."""
    return str(address_of(address))


def addresses_of(host: str) -> tuple[str, ...]:
    """Every address of a host, in the order in which the system prefers them. A name is looked up at each call.

    Raises:
        OSError, UnicodeError: the name cannot be looked up, or is not a name.
    """
    place = address_of(host)
    if not isinstance(place, str):
        return (str(place),)
    if place == "localhost":  # whatever the system says of it, which is often one family alone
        return _LOOPBACK
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(plain(str(entry[4][0])) for entry in found))
