"""Remote pictures come from named hosts on public addresses alone, however an address is written."""

import asyncio
import io
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest
from PIL import Image

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.serve import pictures
from ziya_visual.serve.pictures import Fetcher, decode_image, is_public

HOST = "images.example.org"

FORMS = [
    "http://127.0.0.1/a.png",
    "http://localhost/a.png",
    "http://LOCALHOST/a.png",
    "http://localhost./a.png",
    "http://2130706433/a.png",
    "http://0x7f000001/a.png",
    "http://0177.0.0.1/a.png",
    "http://0x7f.0.0.1/a.png",
    "http://127.1/a.png",
    "http://127.0.1/a.png",
    "http://0/a.png",
    "http://0.0.0.0/a.png",
    "http://10.0.0.1/a.png",
    "http://172.16.0.1/a.png",
    "http://192.168.1.1/a.png",
    "http://169.254.169.254/latest/meta-data/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://100.100.100.200/latest/meta-data/",
    "http://[::1]/a.png",
    "http://[::]/a.png",
    "http://[::ffff:127.0.0.1]/a.png",
    "http://[::ffff:7f00:1]/a.png",
    "http://[fe80::1%25eth0]/a.png",
    "http://[fd00:ec2::254]/a.png",
    "http://[64:ff9b::7f00:1]/a.png",
    "http://127.0.0.1.nip.io/a.png",
    "http://１２７.0.0.1/a.png",
    "http://①②⑦.0.0.1/a.png",
    f"http://{HOST}@127.0.0.1/a.png",
    f"http://user:word@{HOST}/a.png",
    f"http://127.0.0.1#@{HOST}/a.png",
    f"http://127.0.0.1\\@{HOST}/a.png",
    f"http://{HOST}:22/a.png",
    f"http://{HOST}:99999/a.png",
    f"http://{HOST}.evil.example/a.png",
    f"http://evil{HOST}/a.png",
    f"http://{HOST}%00.evil.example/a.png",
    f"http://{HOST}%2f@127.0.0.1/a.png",
    f"http:///{HOST}/a.png",
    f"//{HOST}/a.png",
    f"ftp://{HOST}/a.png",
    f"gopher://{HOST}:80/_GET",
    "file:///etc/passwd",
    f"file://{HOST}/etc/passwd",
    "dict://127.0.0.1:11211/stat",
    "jar:http://127.0.0.1!/a.png",
    f"http://{HOST}/a.png\r\nX-Other: 1",
    f" http://{HOST}/a.png",
    "http://[::1/a.png",
    "",
]


def addressed(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Names lead to these addresses, the last for good; returns the list of names that were asked for."""
    asked: list[str] = []

    async def resolve(_: Any, host: str, port: int, **__: Any) -> list[Any]:
        found = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    return asked


def fetch(url: str, hosts: tuple[str, ...] = (HOST,)) -> bytes:
    return asyncio.run(Fetcher(hosts).fetch([url]))[url]


@pytest.mark.parametrize("url", FORMS)
def test_no_way_of_writing_an_address_leads_inside(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: Any) -> bytes:
        pytest.fail("a connection was made")

    monkeypatch.setattr(pictures, "_get", never)
    addressed(monkeypatch, ["127.0.0.1"])
    with pytest.raises(DataError) as caught:
        fetch(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "inside",
    ["127.0.0.1", "10.1.2.3", "169.254.169.254", "100.64.0.1", "::1", "fe80::1", "fd00::1", "::ffff:10.0.0.1",
     "64:ff9b::a00:1", "2002:7f00:1::", "224.0.0.1", "ff02::1", "240.0.0.1", "0.0.0.0",
     "192.0.2.1", "fe80::1%eth0"],
)  # fmt: skip
def test_a_named_host_that_leads_inside_is_refused(inside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_public(inside)
    for answers in ([inside], ["93.184.215.14", inside]):  # one bad address among good ones is enough
        addressed(monkeypatch, answers)
        with pytest.raises(DataError, match="is not public"):
            fetch(f"https://{HOST}/a.png")


def test_public_addresses_are_public() -> None:
    assert all(map(is_public, ["93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"]))
    assert not is_public("no address")


def test_without_a_list_nothing_is_fetched() -> None:
    with pytest.raises(DataError, match="must be data: URIs"):
        fetch(f"https://{HOST}/a.png", ())
    for name in ("127.0.0.1", "a b", "http://a.org", "", "-a.org", "*.org"):
        with pytest.raises(ConfigError, match="not a host name"):
            Fetcher([name])


class Site(BaseHTTPRequestHandler):
    """Pictures and traps."""

    def do_GET(self) -> None:
        places = {"/moved": "/a.png", "/inside": "http://169.254.169.254/", "/round": "/round"}
        if self.path in places:
            self.send_response(302)
            self.send_header("Location", places[self.path])
            self.end_headers()
        elif self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            for _ in range(1000):
                self.wfile.write(b"x" * 100_000)
        else:
            self.send_response(200 if self.path == "/a.png" else 404)
            self.end_headers()
            Image.new("RGB", (4, 4), "red").save(self.wfile, "PNG")
        self.seen.append(self.headers["Host"])

    seen: ClassVar[list[str]] = []

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A site at this machine whose address passes for a public one."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setitem(pictures.PORTS, "http", server.server_port)
    Site.seen.clear()
    yield [f"http://{HOST}:{server.server_port}"]
    server.shutdown()
    server.server_close()


def test_a_picture_of_a_named_host_is_fetched(site: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = addressed(monkeypatch, ["127.0.0.1"])
    monkeypatch.setattr(pictures, "is_public", lambda _: True)
    port = urlsplit(site[0]).port
    monkeypatch.setattr(pictures, "_netloc", lambda address: f"{address}:{port}")
    for path in ("/a.png", "/moved"):
        body = fetch(site[0] + path)
        assert Image.open(io.BytesIO(body)).size == (4, 4)
        assert decode_image(site[0], {site[0]: body}).getpixel((0, 0)) == (255, 0, 0)
    assert set(asked) == {HOST}
    assert {name.partition(":")[0] for name in Site.seen} == {HOST}
    for path, text in [
        ("/inside", "is not a host"),
        ("/round", "more than 3 times"),
        ("/endless", "larger than 20,000,000 bytes"),
        ("/none", "status 404"),
    ]:
        with pytest.raises(DataError, match=text):
            fetch(site[0] + path)


def test_a_name_that_changes_its_address_is_asked_once(
    site: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection goes to the address that was looked at, and no one asks for the name again."""
    asked = addressed(monkeypatch, ["93.184.215.14"], ["127.0.0.1"])
    targets: list[str] = []

    async def get(target: str, parts: Any) -> bytes:
        targets.append(target)
        return b""

    monkeypatch.setattr(pictures, "_get", get)
    fetch(f"https://{HOST}/a.png?b=1#c")
    assert asked == [HOST]
    assert targets == ["https://93.184.215.14/a.png?b=1"]


def test_a_slow_host_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(*_: Any) -> bytes:
        await asyncio.sleep(5)
        return b""

    addressed(monkeypatch, ["93.184.215.14"])
    monkeypatch.setattr(pictures, "_get", slow)
    monkeypatch.setattr(pictures, "LIMIT_SECONDS", 0.1)
    with pytest.raises(DataError, match="did not arrive within"):
        fetch(f"https://{HOST}/a.png")
