"""What a configuration says of who is let in, in words: networks, and patterns of meters."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

LOOPBACK = ("127.0.0.0/8", "::1/128")
EVERYWHERE = ("0.0.0.0/0", "::/0")
EVERY_METER = ("*",)


def network(text: str) -> IPv4Network | IPv6Network:
    """The network that ``10.1.0.0/16`` or ``fe80::/10`` means; ValueError where none."""
    return ip_network(text)
