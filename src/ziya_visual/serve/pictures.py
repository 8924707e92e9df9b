"""Images of requests: ``data:`` URIs, and URLs on hosts that the operator allows.

A remote image is fetched only over http(s) on the standard port, from an allowed host with public addresses.
Names are resolved here, all their addresses are checked, and the connection uses one of them, so a second
lookup cannot redirect it. A few redirects are followed, each checked the same way.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from urllib.parse import SplitResult, urljoin, urlsplit

import httpx
from PIL import Image

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.core.pictures import decode_data_uri, load_image

LIMIT_BYTES, LIMIT_SECONDS = 20_000_000, 10.0  # of one remote image
LIMIT_PIXELS = 32_000_000  # of any image
MAX_IMAGES, MAX_REDIRECTS = 16, 3
PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
# Networks that embed or relay to other addresses; ipaddress calls some of them global.
RELAYS = [ipaddress.ip_network(net) for net in ("64:ff9b::/96", "2002::/16", "2001::/32", "192.88.99.0/24")]
HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*")


def decode_image(url: str, fetched: Mapping[str, bytes]) -> Image.Image:
    """Open the image of a ``data:`` URI, or one that :meth:`Fetcher.fetch` downloaded."""
    data = fetched[url] if url in fetched else decode_data_uri(url)
    return load_image(data, limit_pixels=LIMIT_PIXELS)


class Fetcher:
    """Downloads images from a list of hosts, which may be empty."""

    def __init__(self, hosts: Iterable[str] = ()) -> None:
        """Take host names as they appear in URLs; raise ``ConfigError`` for anything else."""
        self._hosts = {host.lower().rstrip(".") for host in hosts}
        for host in self._hosts:
            if not HOST.fullmatch(host) or host.rpartition(".")[2].isdigit():
                raise ConfigError(f"{host!r} is not a host name, such as images.example.org")

    async def fetch(self, urls: Iterable[str]) -> dict[str, bytes]:
        """Download all URLs that are not ``data:`` URIs, concurrently; raise ``DataError`` over a limit."""
        urls = list(urls)
        if len(urls) > MAX_IMAGES:
            raise DataError(f"{len(urls)} pictures, more than the limit of {MAX_IMAGES}")
        remote = list(dict.fromkeys(url for url in urls if url[:5].lower() != "data:"))
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                contents = await asyncio.gather(*map(self._fetch, remote))
        except TimeoutError as error:
            raise DataError(f"a picture did not arrive within {LIMIT_SECONDS:g} s") from error
        return dict(zip(remote, contents, strict=True))

    async def _fetch(self, url: str) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            parts = self._check(url)
            # The request names the host, but the connection goes to the address that was checked.
            address = await _public_address(parts.hostname or "", PORTS[parts.scheme])
            target = parts._replace(netloc=_netloc(address), fragment="").geturl()
            content = await _get(target, parts)
            if isinstance(content, bytes):
                return content
            url = urljoin(url, content)
        raise DataError(f"a picture's address redirects more than {MAX_REDIRECTS} times")

    def _check(self, url: str) -> SplitResult:
        """Split a URL on an allowed host; raise ``DataError`` for any other."""
        if not self._hosts:
            raise DataError("pictures must be data: URIs; this server fetches no URLs")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise DataError(f"{url[:80]!r} is not a valid URL ({error})") from error
        if parts.scheme not in PORTS or not parts.hostname:
            raise DataError(f"{url[:80]!r}: pictures must be http, https or data: URIs")
        if "@" in parts.netloc or "\\" in url or any(ord(letter) <= 32 for letter in url):
            raise DataError(f"{url[:80]!r}: URLs with credentials or control characters are refused")
        if port not in (None, PORTS[parts.scheme]):
            raise DataError(f"{url[:80]!r}: port {port} is refused")
        if parts.hostname.rstrip(".") not in self._hosts:
            raise DataError(f"{parts.hostname[:80]!r} is not a host that this server fetches from")
        return parts


def _netloc(address: str) -> str:
    """Return the network location of an address; the port is the standard one."""
    return f"[{address}]" if ":" in address else address


async def _get(target: str, parts: SplitResult) -> bytes | str:
    """Return the content, or the target of a redirect."""
    host = parts.hostname or ""
    try:
        async with (
            httpx.AsyncClient(trust_env=False, timeout=LIMIT_SECONDS) as client,
            client.stream("GET", target, headers={"Host": host}, extensions={"sni_hostname": host}) as reply,
        ):
            if reply.status_code in REDIRECTS:
                return str(reply.headers.get("location", ""))
            if reply.status_code != 200:
                raise DataError(f"{host}: returned status {reply.status_code} instead of a picture")
            body = bytearray()
            async for part in reply.aiter_bytes():
                body += part
                if len(body) > LIMIT_BYTES:
                    raise DataError(f"{host}: the picture is larger than {LIMIT_BYTES:,} bytes")
            return bytes(body)
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        raise DataError(f"{host}: the picture could not be fetched ({type(error).__name__})") from error


async def _public_address(host: str, port: int) -> str:
    """Return one of a host's addresses; raise ``DataError`` if any is not public."""
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise DataError(f"{host}: no such host") from error
    addresses = [str(info[4][0]) for info in infos]
    if not addresses or not all(map(is_public, addresses)):
        raise DataError(f"{host}: resolves to an address that is not public, which is refused")
    return addresses[0]


def is_public(address: str) -> bool:
    """Check that an IP address is public: not private, loopback, link-local or special."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    relayed = any(ip in network for network in RELAYS if network.version == ip.version)
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or relayed)
