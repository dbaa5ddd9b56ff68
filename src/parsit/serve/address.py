"""Where a server listens; checked before anything heavy is imported."""

from __future__ import annotations

import ipaddress
import socket

from parsit.types import ParsitError


def is_loopback(host: str) -> bool:
    """Whether nothing but this machine reaches a server that is bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """A socket on an address; port 0 takes any that is free.

    Raises:
        ParsitError: the address is taken or not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        raise ParsitError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error
    return bound
