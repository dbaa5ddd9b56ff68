"""Images by http(s), from hosts that the server was told of, and never from an address inside.

The name is looked up once, every address it has must be a public one, and the connection goes to the very address that
was checked: a name that points elsewhere a moment later gains nothing. Redirects are not followed.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Collection
from urllib.parse import urlsplit

from parsit.types import InputError

TIMEOUT_S = 20.0
_CHUNK = 64 << 10


def fetch(url: str, allowed_hosts: Collection[str], max_bytes: int) -> bytes:
    """The bytes behind an address.

    Args:
        url: an http or https address.
        allowed_hosts: names of hosts, in lower case.
        max_bytes: of the answer.

    Raises:
        InputError: another kind of address, a host that is not allowed or is inside, or an answer that is no file.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InputError(f"{url[:80]!r} is no address") from error
    host = (parts.hostname or "").lower()
    if parts.scheme not in ("http", "https"):
        raise InputError("an image is a data: URL, an uploaded file, or an http(s) address at an allowed host")
    if host not in allowed_hosts:
        raise InputError(f"images from the host {host!r} are not allowed (`--image_hosts` lists those that are)")
    if parts.username is not None:
        raise InputError("an address with a user's name in it is not fetched")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with _connect(host, port, parts.scheme == "https") as connected:
            return _get(connected, host, parts.path or "/", parts.query, max_bytes)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise InputError(f"the image at {host} cannot be fetched: {error or type(error).__name__}") from error


def public_address(host: str, port: int) -> tuple[int, tuple[str, int]]:
    """The family and the address of a host, if all its addresses are public ones.

    Raises:
        InputError: one of them is inside (loopback, private, link-local, …).
        OSError: the name is not known.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for _, _, _, _, address in found:
        one = ipaddress.ip_address(str(address[0]).partition("%")[0])
        if not is_public(one):
            raise InputError(f"the host {host!r} has an internal address: nothing is fetched from it")
    family, _, _, _, address = found[0]
    return family, (str(address[0]), port)


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is one of the internet at large, also where it wraps another one."""
    if isinstance(address, ipaddress.IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if wrapped is not None:
            return is_public(wrapped)
        if address in ipaddress.ip_network("64:ff9b::/96"):
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address.is_global and not address.is_multicast


def _connect(host: str, port: int, encrypted: bool) -> socket.socket:
    family, address = public_address(host, port)
    connected = socket.socket(family, socket.SOCK_STREAM)
    try:
        connected.settimeout(TIMEOUT_S)
        connected.connect(address)
        return ssl.create_default_context().wrap_socket(connected, server_hostname=host) if encrypted else connected
    except BaseException:
        connected.close()
        raise


def _get(connected: socket.socket, host: str, path: str, query: str, max_bytes: int) -> bytes:
    connection = http.client.HTTPConnection(host)
    connection.sock = connected
    connection.request("GET", f"{path}?{query}" if query else path, headers={"Connection": "close"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise ValueError(f"it answers {answer.status}")
    deadline, data = time.monotonic() + TIMEOUT_S, bytearray()
    while chunk := answer.read(_CHUNK):
        data += chunk
        if len(data) > max_bytes:
            raise ValueError(f"it is larger than {max_bytes:,} bytes")
        if time.monotonic() > deadline:
            raise ValueError(f"it takes longer than {TIMEOUT_S:g} s")
    return bytes(data)
