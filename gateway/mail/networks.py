# SPDX-License-Identifier: GPL-2.0-or-later
"""Is this client inside these networks? Settings name networks in CIDR form.

Reads client addresses, which an MTA or a listed proxy has told us; anything that is not an IP
address is inside no network. No I/O.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_LONGEST = 64  # characters of an address that is remembered: no stranger fills the memory


@lru_cache(maxsize=1024)
def network(text: str) -> Network:
    """The network `text` ("192.0.2.0/24", "::1") names. Raises ValueError; host bits must be zero."""
    found = ipaddress.ip_network(text, strict=False)
    if ipaddress.ip_interface(text).ip != found.network_address:
        raise ValueError(f"'{text}' has host bits set; write '{found}'")
    return found


def address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address `text`, an IPv4-mapped IPv6 address as the IPv4 address it is; None if not one."""
    return _remembered(text) if len(text) <= _LONGEST else _address(text)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


_remembered = lru_cache(maxsize=4096)(_address)


@lru_cache(maxsize=4096)
def same_client(ip: str) -> str:
    """What counts as one client: an IPv4 address, the /64 of an IPv6 address, else `ip` itself."""
    found = address(ip)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((found, 64), strict=False))
    return ip if found is None else str(found)


@lru_cache(maxsize=4096)
def network_of(ip: str) -> str:
    """The network around a client: the /24 of an IPv4 address, the /48 of an IPv6 one or its /64; or ""."""
    found = address(ip.partition("/")[0])
    if found is None:
        return ""
    return str(ipaddress.ip_network((found, 24 if found.version == 4 else 48), strict=False))


def is_here(ip: str) -> bool:
    """Whether `ip` is a loopback address, or that of a unix socket, which has none."""
    found = address(ip)
    return not ip or (found is not None and found.is_loopback)


def inside(client_ip: str, networks: tuple[str, ...]) -> bool:
    """Whether `client_ip` lies in one of `networks`; never for "" or what is not an address."""
    if not networks:
        return False
    found = address(client_ip)
    return found is not None and any(found in network(text) for text in networks)


def reverse_name(text: str) -> str:
    """The name of an IP address under in-addr.arpa or ip6.arpa; ValueError if `text` is none."""
    return (address(text) or ipaddress.ip_address(text)).reverse_pointer
