"""Who is let in, and what of this machine and its network a request can reach: nothing."""

from __future__ import annotations

import http.server
import ipaddress
import socket
import threading

import pytest

from parsit.serve import remote
from parsit.serve.address import is_loopback
from parsit.types import InputError
from serve_support import data_url, noise, png, question

CHAT = "/v1/chat/completions"


@pytest.mark.slow
def test_a_token_is_asked_for_and_compared_whole(start):
    with start(token="secret") as served:
        asked = {"messages": question("Read."), "max_tokens": 1}
        for given in (None, "secre", "secret2", "Secret"):
            headers = {"Authorization": f"Bearer {given}"} if given is not None else {}
            for path in (CHAT, "/v1/parse"):
                answer = served.http.post(path, json=asked, headers=headers)
                assert answer.status_code == 401
                assert answer.json()["error"]["type"] == "authentication_error"
            for path in ("/metrics", "/v1/models", "/v1/jobs/x", "/openapi.json"):
                assert served.http.get(path, headers=headers).status_code == 401
        assert served.http.post(CHAT, json=asked, headers={"Authorization": "Bearer secret"}).is_success
        assert served.http.get("/health").is_success
        assert served.http.get("/").is_success  # the page, which asks for the token


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::2]:80"])
def test_a_name_that_points_here_is_not_enough(served, host):
    answer = served.http.get("/v1/models", headers={"Host": host})
    assert answer.status_code == 403 or (host == "" and answer.status_code == 400)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:{port}", "[::1]:{port}"])
def test_this_machines_own_names_are(served, host):
    assert served.http.get("/v1/models", headers={"Host": host.format(port=served.port)}).is_success


def test_a_page_of_another_site_gets_nothing_and_no_cors_headers(served):
    asked = {"messages": question("Read."), "max_tokens": 1}
    for origin in ("https://evil.example", "null", f"http://localhost:{served.port + 1}"):
        answer = served.http.post(CHAT, json=asked, headers={"Origin": origin})
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert served.http.post(CHAT, json=asked, headers={"Origin": served.url}).is_success
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    assert served.http.options(CHAT, headers=preflight).status_code == 403


def test_a_body_is_limited_whether_its_length_is_told_or_not(served):
    large = b"x" * 3_000_001
    assert served.http.post(CHAT, content=large).status_code == 413
    pieces = (large[start : start + 100_000] for start in range(0, len(large), 100_000))
    assert served.http.post(CHAT, content=pieces).status_code == 413
    file = {"file": ("big.pdf", b"%PDF-" + large)}
    assert served.http.post("/v1/parse", files=file).status_code == 413


@pytest.mark.slow
def test_a_body_that_stops_coming_is_given_up(start):
    with start(body_seconds=0.2) as served, socket.create_connection(("127.0.0.1", served.port)) as connection:
        head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" % CHAT.encode()
        connection.sendall(head + b"Content-Length: 100\r\n\r\nhalf")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"stopped coming for 0.2 s" in answer


@pytest.fixture(scope="module")
def images_at_home():
    """A web server on this machine that has an image at every path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302 if self.path.startswith("/moved") else 200)
            self.send_header("Location", "/there")
            self.end_headers()
            self.wfile.write(b"x" * 9000 if self.path.startswith("/large") else png(noise(1)))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_nothing_is_fetched_from_an_address_inside_even_from_an_allowed_host(start, images_at_home):
    names = ["localhost", "127.0.0.1", "0.0.0.0", "::1", "::ffff:127.0.0.1", "10.0.0.1", "169.254.169.254"]
    with start(image_hosts=names) as served:
        for name in names:
            host = f"[{name}]" if ":" in name else name
            url = f"http://{host}:{images_at_home}/image.png"
            part = {"type": "image_url", "image_url": {"url": url}}
            answer = served.http.post(CHAT, json={"messages": [{"role": "user", "content": [part]}]})
            assert (answer.status_code, "internal address" in answer.text) == (400, True), name


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.png",
        "https://allowed.example@example.com/a.png",
        "http://user:password@allowed.example/a.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "ftp://allowed.example/a.png",
        "gopher://allowed.example/",
        "http://allowed.example:99999/",
        "http://[::1",
        "http://",
        "",
        "javascript:alert(1)",
    ],
)
def test_only_images_of_allowed_hosts_are_looked_for(start, served, url):
    with pytest.raises(InputError):
        remote.fetch(url, {"allowed.example"}, 1000)
    part = {"type": "image_url", "image_url": {"url": url}}
    answer = served.http.post(CHAT, json={"messages": [{"role": "user", "content": [part]}]})
    assert answer.status_code == 400
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_which_addresses_are_public(address, public):
    assert remote.is_public(ipaddress.ip_address(address)) is public
    if public:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        assert remote.public_address(address, 80) == (family, (address, 80))


def test_what_a_host_sends_is_read_up_to_the_limit_and_redirects_are_not_followed(images_at_home):
    def get(path, limit):
        with socket.create_connection(("127.0.0.1", images_at_home)) as connected:
            return remote._get(connected, "allowed.example", path, "a=b", limit)

    assert get("/image.png", 1 << 20) == png(noise(1))
    with pytest.raises(ValueError, match="larger than 8,000 bytes"):
        get("/large", 8000)
    with pytest.raises(ValueError, match="it answers 302"):
        get("/moved", 8000)


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.168.0.7", False), ("example.com", False)],
)  # fmt: skip
def test_which_addresses_only_this_machine_reaches(host, local):
    assert is_loopback(host) is local


def test_the_page_runs_nothing_from_elsewhere(served):
    policy = served.http.get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'self'")
    for path in ("/", "/page.css", "/page.js"):
        text = served.http.get(path).text
        assert "http://" not in text.replace("http://www.w3.org", "")
        assert "https://" not in text
        assert data_url(b"") not in text
