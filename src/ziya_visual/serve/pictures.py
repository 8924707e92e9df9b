"""Pictures of requests: ``data:`` URIs, and addresses on hosts that the operator named.

A remote picture is fetched only over http(s) on its standard port, from a host of the list, from a public
address: names are resolved here, every address they have is looked at, and the connection goes to one of
those that were, so that a name cannot be another's a moment later. Redirects are followed a few times, each
checked the same way.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from urllib.parse import SplitResult, urljoin, urlsplit

import httpx
from PIL import Image

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.core.pictures import load_image

LIMIT_BYTES, LIMIT_SECONDS = 20_000_000, 10.0  # of one remote picture
LIMIT_PIXELS = 32_000_000  # of any picture
MAX_PICTURES, MAX_REDIRECTS = 16, 3
PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
# Networks that reach other machines inside; ipaddress calls some of them global.
INSIDE = [ipaddress.ip_network(net) for net in ("64:ff9b::/96", "2002::/16", "2001::/32", "192.88.99.0/24")]
HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*")


def picture(url: str, fetched: Mapping[str, bytes]) -> Image.Image:
    """The picture of a ``data:`` URI, or one that :meth:`Fetcher.fetch` brought.

    Raises:
        DataError: it is neither, or cannot be read.
    """
    if url in fetched:
        return load_image(fetched[url], limit_pixels=LIMIT_PIXELS)
    header, comma, payload = url.partition(",")
    if not header[:5].lower() == "data:" or not comma or not header.endswith(";base64"):
        raise DataError(f"a picture must be a data: URI in base64, found {url[:40]!r}")
    try:
        return load_image(base64.b64decode(payload, validate=True), limit_pixels=LIMIT_PIXELS)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"a picture's base64 is broken ({error})") from error


class Fetcher:
    """Fetches pictures from a list of hosts, which may be empty."""

    def __init__(self, hosts: Iterable[str] = ()) -> None:
        """Take names as they stand in addresses; ``ConfigError`` where one is no plain host name."""
        self._hosts = {host.lower().rstrip(".") for host in hosts}
        for host in self._hosts:
            if not HOST.fullmatch(host) or host.rpartition(".")[2].isdigit():
                raise ConfigError(f"{host!r} is no host name, such as images.example.org")

    async def fetch(self, urls: Iterable[str]) -> dict[str, bytes]:
        """The contents of those that are no ``data:`` URIs, all at once.

        Raises:
            DataError: one is refused, or cannot be had within the limits; or there are too many pictures.
        """
        wanted = list(urls)
        if len(wanted) > MAX_PICTURES:
            raise DataError(f"{len(wanted)} pictures, more than the limit of {MAX_PICTURES}")
        remote = list(dict.fromkeys(url for url in wanted if url[:5].lower() != "data:"))
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                found = await asyncio.gather(*map(self._fetch, remote))
        except TimeoutError as error:
            raise DataError(f"a picture did not come within {LIMIT_SECONDS:g} s") from error
        return dict(zip(remote, found, strict=True))

    async def _fetch(self, url: str) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            parts = self._check(url)
            # The name alone is shown to the other side; the connection goes to the address looked at.
            address = await _public_address(parts.hostname or "", PORTS[parts.scheme])
            target = parts._replace(netloc=_pinned(parts, address), fragment="").geturl()
            found = await _get(target, parts)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise DataError(f"a picture's address leads on more than {MAX_REDIRECTS} times")

    def _check(self, url: str) -> SplitResult:
        """The parts of an address on one of the hosts, written plainly."""
        if not self._hosts:
            raise DataError("pictures must be data: URIs; this server fetches nothing from elsewhere")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise DataError(f"{url[:80]!r} is no address ({error})") from error
        if parts.scheme not in PORTS or not parts.hostname:
            raise DataError(f"{url[:80]!r}: pictures come by http or https, or as data: URIs")
        if "@" in parts.netloc or "\\" in url or any(ord(letter) <= 32 for letter in url):
            raise DataError(f"{url[:80]!r}: an address with credentials or odd characters is refused")
        if port not in (None, PORTS[parts.scheme]):
            raise DataError(f"{url[:80]!r}: port {port} is refused")
        if parts.hostname.rstrip(".") not in self._hosts:
            raise DataError(f"{parts.hostname[:80]!r} is not among the hosts that this server fetches from")
        return parts


def _pinned(parts: SplitResult, address: str) -> str:
    """The address in the place of the host; ports are standard ones."""
    return f"[{address}]" if ":" in address else address


async def _get(target: str, parts: SplitResult) -> bytes | str:
    """The contents, or where it leads on."""
    host = parts.hostname or ""
    try:
        async with (
            httpx.AsyncClient(trust_env=False, timeout=LIMIT_SECONDS) as client,
            client.stream("GET", target, headers={"Host": host}, extensions={"sni_hostname": host}) as reply,
        ):
            if reply.status_code in REDIRECTS:
                return str(reply.headers.get("location", ""))
            if reply.status_code != 200:
                raise DataError(f"{host}: replied {reply.status_code} instead of a picture")
            body = bytearray()
            async for part in reply.aiter_bytes():
                body += part
                if len(body) > LIMIT_BYTES:
                    raise DataError(f"{host}: a picture of more than {LIMIT_BYTES:,} bytes")
            return bytes(body)
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        raise DataError(f"{host}: a picture could not be fetched ({type(error).__name__})") from error


async def _public_address(host: str, port: int) -> str:
    """One of a host's addresses; ``DataError`` where any of them is not public."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise DataError(f"{host}: no such host") from error
    addresses = [str(address[4][0]) for address in found]
    if not addresses or not all(map(is_public, addresses)):
        raise DataError(f"{host}: leads to an address inside this network, which is refused")
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an IP address is a machine of the internet: no private, loopback, link-local or special one."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    inside = any(ip in network for network in INSIDE if network.version == ip.version)
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or inside)
