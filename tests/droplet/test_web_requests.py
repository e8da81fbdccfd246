"""What a stranger gets from the web server: headers once, nothing outside static, no erase-all, whatever he spells."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import ssl
import subprocess
import uuid

import pytest

HEADERS = {
    "Strict-Transport-Security": "max-age=31536000",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Permissions-Policy": "camera=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'",
}

ERASE_ALL = [
    "/api/user-data",
    "/api/user-data/",
    "/api/user-data//",
    "/api/user-data?confirm=yes",
    "/api/user-data#fragment",
    "/api/user-data;jsessionid=1",
    "/api/user-data/.",
    "/api/user-data%20",
    "/api/user-data%09",
    "/api/user-data%3f",
    "/api/user-data%23",
    "/api/user-data%2f",
    "//api/user-data",
    "/api//user-data",
    "///api///user-data",
    "/./api/./user-data",
    "/api/x/../user-data",
    "/static/../api/user-data",
    "/api/%2e%2e/api/user-data",
    "/api/auth/../user-data",
    "/api/auth/%2e%2e/user-data",
    "/api%2fuser-data",
    "/%61pi/user-data",
    "/api/%75ser-data",
    "/api/user%2ddata",
    "/api/user%2Ddata",
    "/api/%75%73%65%72%2d%64%61%74%61",
    "/API/USER-DATA",
    "/Api/User-Data",
    "/aPi/usEr-data/",
]
# These are other paths to nginx. Were they to reach the app, it would have to read them as the route.
ERASE_ALL_ODD = [
    "/api/user-data%00",
    "/api/%2575ser-data",
    "/api/user%252ddata",
    "/api/user-data%0d%0a",
    "/api\\user-data",
    "/api/%5cuser-data",
    "/api/..%2fapi%2fuser-data%252f",
    "/static/..%5c..%5capi/user-data",
    "/static%2f..%2f..%2fapi/user-data%2500",
    "*/api/user-data",
    "api/user-data",
]

OUTSIDE = [
    "/static/../.env",
    "/static/..%2f.env",
    "/static/%2e%2e/.env",
    "/static/%2e%2e%2f.env",
    "/static/..%252f.env",
    "/static/....//.env",
    "/static/..;/.env",
    "/static../.env",
    "/static..%2f.env",
    "/static/.env",
    "/static/%2eenv",
    "/static/..\\.env",
    "/static/..%5c.env",
    "/static//etc/passwd",
    "/static/%2fetc%2fpasswd",
    "/static/../../../../../../etc/passwd",
    "/static/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/static/%c0%ae%c0%ae/%c0%ae%c0%ae/etc/passwd",
    "/static/%uff0e%uff0e/etc/passwd",
    "/static/%00/../.env",
    "/static/style.css/../../.env",
    "/static/../src/main.py",
    "/../../../../etc/passwd",
    "/..%2f..%2f..%2fetc%2fpasswd",
    "/etc/passwd",
    "/.env",
    "/%2eenv",
    "/.git/config",
    "/api/../.env",
    "/giggles-unavailable.html/../../../../../etc/passwd",
    "/.well-known/acme-challenge/../../../etc/passwd",
]


@pytest.fixture(scope="module")
def token(droplet):
    """Return a bearer token with which the app would carry out what nginx lets through."""
    body = json.dumps({"email": "tester@example.com", "password": "right"}).encode()
    answer = droplet.request("POST", "/api/auth/login", headers={"Content-Type": "application/json"}, body=body)
    assert answer.status == 200, answer.body
    return json.loads(answer.body)["access_token"]


def logged(droplet, marker: str) -> list[str]:
    """Return the access log's lines with this user agent, once nginx has written them."""
    found: list[str] = []

    def there() -> bool:
        found[:] = droplet.shell(f"grep -F {marker} /var/log/nginx/access.log || true").splitlines()
        return bool(found)

    droplet.wait_for(f"{marker} in the access log", there)
    return found


def assert_headers_once(answer) -> None:
    for name, expected in HEADERS.items():
        values = answer.all(name)
        assert len(values) == 1, f"{name} was sent {len(values)} times with status {answer.status}"
        assert values[0].startswith(expected)


def test_health_is_served_over_https_with_each_header_once(droplet):
    answer = droplet.request(path="/api/health")
    assert answer.status == 200
    assert json.loads(answer.body)["status"] == "healthy"
    assert_headers_once(answer)
    assert answer.all("Cache-Control") == ["no-store"]


def test_page_and_static_files_carry_each_header_once(droplet):
    assert_headers_once(droplet.request(path="/"))
    static = droplet.request(path="/static/style.css")
    assert static.status == 200
    assert_headers_once(static)
    assert static.all("Cache-Control") == ["max-age=3600"]


def test_errors_carry_each_header_once(droplet, token):
    cases = {
        403: droplet.request("DELETE", "/api/user-data"),
        404: droplet.request(path="/no-such-page"),
        400: droplet.request(path="/static/%2e%2e/x"),
        500: droplet.request("DELETE", f"/api/laughter-detections/{uuid.UUID(int=1)}", headers={"Authorization": f"Bearer {token}"}),
        413: droplet.request("POST", "/api/audio-clips", headers={"Content-Length": str(10**12)}),
        405: droplet.request("PROPFIND", "/"),
    }
    for status, answer in cases.items():
        assert answer.status == status
        assert_headers_once(answer)
    assert droplet.request(path="/static/missing.css").status == 404
    assert_headers_once(droplet.request(path="/static/missing.css"))


def test_http_leads_to_https_and_never_sends_hsts(droplet):
    answer = droplet.request(path="/some/path?and=query", scheme="http")
    assert answer.status == 301
    assert answer.all("Location") == [f"https://{droplet.info['domain']}/some/path?and=query"]
    assert answer.all("Strict-Transport-Security") == []
    for name in ("X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy"):
        assert len(answer.all(name)) == 1


def test_version_is_not_disclosed(droplet):
    for answer in (droplet.request(path="/"), droplet.request(path="/no-such-page"), droplet.request(scheme="http")):
        assert answer.all("Server") == ["nginx"]
        assert b"nginx/" not in answer.body
        assert answer.all("X-Powered-By") == []


def test_redirects_of_the_app_stay_on_the_domain(droplet):
    answer = droplet.request(path="/api/health/")
    assert answer.status in (307, 404)
    for location in answer.all("Location"):
        assert "localhost" not in location


@pytest.mark.parametrize("target", ERASE_ALL)
def test_erase_all_is_refused_and_says_why(droplet, token, target):
    answer = droplet.request("DELETE", raw_target=target, headers={"Authorization": f"Bearer {token}"})
    assert answer.status == 403, answer.body
    assert answer.all("Content-Type") == ["application/json"]
    assert "recordings of all users" in json.loads(answer.body)["detail"]


@pytest.mark.parametrize("target", ERASE_ALL_ODD)
def test_what_only_resembles_erase_all_is_refused_too(droplet, token, target):
    answer = droplet.request("DELETE", raw_target=target, headers={"Authorization": f"Bearer {token}"})
    assert answer.status in (400, 403, 404), (answer.status, answer.body)


def test_erase_all_in_other_forms_never_reaches_the_app(droplet, token):
    domain, marker = droplet.info["domain"], f"erase-{uuid.uuid4().hex}"
    headers = {"Authorization": f"Bearer {token}", "User-Agent": marker}
    attempts = [
        droplet.request("DELETE", raw_target=f"https://{domain}/api/user-data", headers=headers),
        droplet.request("DELETE", raw_target=f"http://{domain}/api/%75ser-data", headers=headers),
        droplet.request("DELETE", raw_target="http://localhost/api/user-data", headers=headers),
        droplet.request("DELETE", "/api/user-data", host="localhost", headers=headers),
        droplet.request("DELETE", "/api/user-data", host=domain.upper(), headers=headers),
        droplet.request("DELETE", "/api/user-data", headers={**headers, "X-Original-URL": "/api/health"}),
        droplet.request(
            "DELETE", "/api/health", headers={**headers, "X-Original-URL": "/api/user-data", "X-Rewrite-URL": "/api/user-data"}
        ),
        droplet.request("POST", "/api/user-data", headers={**headers, "X-HTTP-Method-Override": "DELETE"}, body=b""),
        droplet.request(
            "POST", "/api/user-data?_method=DELETE", headers={**headers, "X-Method-Override": "DELETE"}, body=b"_method=DELETE"
        ),
    ]
    for answer in attempts:
        assert answer.status not in (200, 204, 307, 500), answer.body
    for line in logged(droplet, marker):
        if '"DELETE' in line and "user-data" in line:
            assert line.endswith("upstream=-"), line


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_erase_all_is_refused_in_both_versions_of_http(droplet, token, version):
    for target in ("/api/user-data", "/api//user-data", "/api/x/../user-data", "/api/%75ser-data/"):
        done = subprocess.run(
            ["curl", version, "--silent", "--show-error", "--path-as-is", "--max-time", "20", "--request", "DELETE",
             "--cacert", droplet.info["acme_root"],
             "--resolve", f"{droplet.info['domain']}:443:{droplet.info['ip']}",
             "--header", f"Authorization: Bearer {token}",
             "--write-out", "\n%{http_code} %{http_version}", f"https://{droplet.info['domain']}{target}"],
            capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
        assert done.stdout.splitlines()[-1] == f"403 {'2' if version == '--http2' else '1.1'}"


def test_other_methods_on_the_route_are_left_to_the_app(droplet):
    assert droplet.request("GET", "/api/user-data").status in (404, 405)
    assert droplet.request("GET", "/api/user-database").status == 404


@pytest.mark.parametrize("target", OUTSIDE)
def test_no_file_outside_static_is_served(droplet, target):
    answer = droplet.request(raw_target=target)
    assert answer.status in (400, 403, 404), (answer.status, answer.body[:200])
    for secret in (b"root:", b"SECRET_KEY", b"SUPABASE", b"[core]", b"import "):
        assert secret not in answer.body


def test_links_inside_static_are_not_followed(droplet):
    folder = droplet.shell("sed -n 's/^ *alias \\(.*\\)\\/;/\\1/p' /etc/nginx/sites-available/giggles").strip()
    droplet.shell(f"ln -sfn /etc/passwd {folder}/leak.txt; ln -sfn /etc {folder}/leak; echo hidden > {folder}/.hidden")
    try:
        for path in ("/static/leak.txt", "/static/leak/passwd", "/static/.hidden", "/static/leak/"):
            assert droplet.request(path=path).status in (403, 404), path
    finally:
        droplet.shell(f"rm -f {folder}/leak.txt {folder}/leak {folder}/.hidden")


@pytest.mark.parametrize(
    "path", ["/docs", "/docs/", "/docs/oauth2-redirect", "/redoc", "/openapi.json", "/OpenAPI.json", "/.git/HEAD", "/api/.env"]
)
def test_what_describes_the_app_is_denied(droplet, path):
    assert droplet.request(path=path).status == 403


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "evil.example", "yourdomain.com", "", "x.local"])
def test_unknown_hosts_get_no_answer(droplet, host):
    assert droplet.request(path="/api/health", host=host).status in (400, 421)
    if host:
        with pytest.raises(ConnectionResetError):
            droplet.request(path="/api/health", host=host, scheme="http")
    else:
        assert droplet.request(path="/api/health", host=host, scheme="http").status == 400


def test_unknown_names_get_no_handshake(droplet):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name in ("evil.example", None):
        with socket.create_connection((droplet.info["ip"], 443), 10) as plain, pytest.raises((ssl.SSLError, ConnectionResetError)):
            context.wrap_socket(plain, server_hostname=name)


def test_forwarded_headers_of_a_client_do_not_count(droplet):
    marker = f"forwarded-{uuid.uuid4().hex}"
    forged = {"X-Forwarded-For": "198.51.100.7", "X-Forwarded-Host": "evil.example", "Forwarded": "for=198.51.100.7", "User-Agent": marker}
    assert droplet.request(path="/api/health", headers=forged).status == 200
    assert all("198.51.100.7" not in line for line in logged(droplet, marker))


def test_query_strings_reach_no_log(droplet):
    secret = f"planted-{uuid.uuid4().hex}"
    marker = f"query-{uuid.uuid4().hex}"
    headers = {"User-Agent": marker, "Referer": f"https://{droplet.info['domain']}/reset?token={secret}"}
    droplet.request(path=f"/api/health?token={secret}", headers=headers)
    droplet.request(path=f"/static/missing.css?token={secret}", headers=headers)
    droplet.request(path=f"/?token={secret}", headers=headers, scheme="http")
    assert len(logged(droplet, marker)) >= 1
    assert droplet.shell(f"grep -rl {secret} /var/log/nginx || true") == ""


def test_slow_headers_are_cut_off(droplet):
    with socket.create_connection((droplet.info["ip"], 80), 40) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: " + droplet.info["domain"].encode() + b"\r\nX-Slow: ")
        with contextlib.suppress(ConnectionResetError):
            assert slow.recv(1024) == b""


@pytest.fixture(scope="module")
def down(droplet):
    """Return what is answered while the app is stopped: a page, a page that was sent something, two routes, a static file."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    droplet.shell("systemctl stop giggles.socket giggles.service")
    try:
        asked = {
            "page": droplet.request(path="/"),
            "page that was cached": droplet.request(
                path="/", headers={"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT", "Range": "bytes=0-9"}
            ),
            "form": droplet.request("POST", "/sign-in", headers=form, body=b"name=value"),
            "api": droplet.request(path="/api/health"),
            "sign in": droplet.request("POST", "/api/auth/login", headers={"Content-Type": "application/json"}, body=b"{}"),
            "static": droplet.request(path="/static/style.css"),
        }
    finally:
        droplet.shell("systemctl start giggles.socket giggles.service")
    droplet.wait_for("the app to answer again", droplet.healthy)
    return asked


def test_people_and_programs_are_told_when_the_app_is_down(down):
    assert down["static"].status == 200, "static files do not need the app"
    for name, answer in down.items():
        if name == "static":
            continue
        assert answer.status == 503, name
        assert_headers_once(answer)
        assert answer.all("Retry-After") == ["10"]
        assert answer.all("Cache-Control") == ["no-store"]
        if name in ("api", "sign in"):
            assert answer.all("Content-Type") == ["application/json"]
            assert "updated or restarted" in json.loads(answer.body)["detail"]
        else:
            assert answer.all("Content-Type") == ["text/html; charset=utf-8"]
            assert b"Giggles is back soon" in answer.body


def test_the_page_shown_meanwhile_is_whole_by_itself(down):
    page = down["page"].body.decode()
    assert re.findall(r"(?i)<(?:script|img|link|iframe|form|object|video|audio)\b|\bon[a-z]+=|url\(|@import|//", page) == []
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert "prefers-color-scheme: dark" in page
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in page, "its own policy would let its style not count"


def test_an_error_of_the_app_itself_is_passed_on(droplet, token):
    answer = droplet.request("DELETE", f"/api/laughter-detections/{uuid.UUID(int=1)}", headers={"Authorization": f"Bearer {token}"})
    assert answer.status == 500
    assert b"back soon" not in answer.body
    assert "updated or restarted" not in answer.body.decode()
    assert answer.all("Retry-After") == []


def test_long_requests_may_take_ten_minutes(droplet):
    configuration = droplet.shell("nginx -T 2>/dev/null")
    for location in ("/api/", "/api/auth/"):
        assert "proxy_read_timeout 600s;" in configuration.split(f"location ^~ {location} {{")[1].split("}")[0]


def test_guessing_passwords_is_slowed_down(droplet, token):
    """Last in this file: it uses up what this address may ask for in a minute."""
    body = json.dumps({"email": "tester@example.com", "password": "wrong"}).encode()
    answers = []
    for _ in range(60):
        answers.append(droplet.request("POST", "/api/auth/login", headers={"Content-Type": "application/json"}, body=body))
        if answers[-1].status == 429:
            break
    assert answers[-1].status == 429
    assert len(answers) > 5, "nobody could even mistype a password"
    assert_headers_once(answers[-1])
    assert answers[-1].all("Retry-After") == ["60"]
    assert "Too many requests" in json.loads(answers[-1].body)["detail"]
    assert droplet.request(path="/api/health").status == 200
