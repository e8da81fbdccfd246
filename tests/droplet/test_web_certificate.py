"""The certificate: who issued it, that renewing it costs nobody a request, and that nginx starts without one."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import threading
import time

CERTBOT = "/opt/certbot/current/bin/certbot"


def served(droplet, verify: bool = True) -> dict[str, str]:
    """Return serial number and issuer of the certificate that a new connection gets."""
    context = droplet.tls()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((droplet.info["ip"], 443), 10) as plain,
        context.wrap_socket(plain, server_hostname=droplet.info["domain"]) as tls,
    ):
        text = ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True) or b"")
    printed = subprocess.run(
        ["openssl", "x509", "-noout", "-serial", "-issuer", "-ext", "subjectAltName"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    ).stdout
    return dict(line.strip().split("=", 1) for line in printed.splitlines() if "=" in line)


def test_certificate_comes_from_the_acme_authority_and_is_ecdsa(droplet):
    assert "Pebble" in served(droplet)["issuer"]
    text = droplet.shell(f"openssl x509 -noout -text -in /etc/letsencrypt/live/{droplet.info['domain']}/cert.pem")
    assert "id-ecPublicKey" in text
    assert f"DNS:{droplet.info['domain']}" in text


def test_renewal_asks_the_authority_when_it_is_due(droplet):
    """certbot reads the renewal window (ARI) from 4.1 on."""
    version = droplet.shell(f"{CERTBOT} --version").split()[1]
    assert tuple(int(part) for part in version.split(".")[:2]) >= (4, 1)
    assert droplet.shell("systemctl is-enabled giggles-certbot.timer").strip() == "enabled"
    assert droplet.shell("systemctl is-active giggles-certbot.timer").strip() == "active"
    assert (
        droplet.shell("systemctl show -P OnCalendar giggles-certbot.timer; systemctl cat giggles-certbot.timer").count("Persistent=yes")
        == 1
    )


def test_renewal_service_finds_nothing_to_do_and_succeeds(droplet):
    before = served(droplet)["serial"]
    droplet.shell("systemctl start giggles-certbot.service")
    assert droplet.shell("systemctl show -P Result giggles-certbot.service").strip() == "success"
    assert served(droplet)["serial"] == before


def test_forced_renewal_swaps_the_certificate_without_a_failed_request(droplet):
    """The very service, sandbox included, is told to renew now, while four clients ask as fast as they can."""
    before = served(droplet)["serial"]
    asked, failures, done = [0] * 4, [], threading.Event()

    def client(number: int) -> None:
        end = time.monotonic() + 90
        while not done.is_set() and time.monotonic() < end:
            try:
                answer = droplet.request(path="/api/health", timeout=15)
                if answer.status != 200:
                    failures.append(f"status {answer.status}")
            except Exception as error:  # noqa: BLE001 - whatever goes wrong for a client counts
                failures.append(repr(error))
            asked[number] += 1

    clients = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    force = "/run/systemd/system/giggles-certbot.service.d/force.conf"
    droplet.shell(f"mkdir -p {os.path.dirname(force)}")
    droplet.write(force, f"[Service]\nExecStart=\nExecStart={CERTBOT} renew --force-renewal --no-random-sleep-on-renew\n")
    droplet.shell("systemctl daemon-reload")
    try:
        for one in clients:
            one.start()
        time.sleep(1)
        droplet.shell("systemctl start giggles-certbot.service || { journalctl -u giggles-certbot.service -n 40 --no-pager; exit 1; }")
        droplet.wait_for("the new certificate to be served", lambda: served(droplet)["serial"] != before)
        time.sleep(2)
    finally:
        done.set()
        for one in clients:
            one.join(30)
        droplet.shell(f"rm -f {force}; rmdir {os.path.dirname(force)}; systemctl daemon-reload")
    assert failures == []
    assert sum(asked) > 50
    assert "Pebble" in served(droplet)["issuer"]
    assert droplet.apply("web").changed == {}


@contextlib.contextmanager
def without_certificate(droplet):
    """Take the certificate away as if none had ever been issued, and put it back."""
    droplet.shell("mv /etc/letsencrypt /root/letsencrypt.aside; mkdir -m 0755 /etc/letsencrypt")
    try:
        yield
    finally:
        droplet.shell(
            "rm -rf /etc/letsencrypt; mv /root/letsencrypt.aside /etc/letsencrypt; rm -f /var/lib/letsencrypt/giggles-refusal.json"
        )
        outcome = droplet.apply("web")
        assert outcome.code == 0, outcome.failed
        droplet.shell("systemctl restart nginx")


def test_refusal_keeps_nginx_serving_and_is_not_repeated_at_once(droplet):
    """No certificate, and an authority that cannot be reached: the placeholder serves, and a restart of nginx works."""
    with without_certificate(droplet):
        pillar = json.dumps({"giggles": {"web": {"acme": {"directory": "https://acme.giggles.test:1/dir"}}}})
        outcome = droplet.apply("web", f"pillar={pillar}")
        assert outcome.code != 0
        assert set(outcome.failed) == {"certificate-issued"}
        said = outcome.failed["certificate-issued"]
        assert "https://acme.giggles.test:1/dir" in said
        assert "cannot be reached" in said
        assert "\n" not in said
        droplet.shell("systemctl restart nginx")
        assert "placeholder" in served(droplet, verify=False)["issuer"]

        started = droplet.shell("ls /var/log/letsencrypt | wc -l")
        again = droplet.apply("web", f"pillar={pillar}")
        assert "is not repeated before" in again.failed["certificate-issued"]
        assert droplet.shell("ls /var/log/letsencrypt | wc -l") == started, "certbot was started all the same"
    assert "Pebble" in served(droplet)["issuer"]


def test_other_authority_means_another_certificate_and_unused_ones_go(droplet):
    """A lineage from elsewhere is replaced, and one that nobody asked for is removed; both are named in the changes."""
    domain = droplet.info["domain"]
    before = served(droplet)["serial"]
    droplet.shell(
        f"sed -i 's#^server = .*#server = https://acme-staging.example/dir#' /etc/letsencrypt/renewal/{domain}.conf; "
        f"{CERTBOT} delete --non-interactive --cert-name leftover 2>/dev/null || true; "
        f"cp -a /etc/letsencrypt/renewal/{domain}.conf /etc/letsencrypt/renewal/leftover.conf; "
        f"sed -i 's#/{domain}\\b#/leftover#' /etc/letsencrypt/renewal/leftover.conf; "
        f"cp -a /etc/letsencrypt/archive/{domain} /etc/letsencrypt/archive/leftover; mkdir /etc/letsencrypt/live/leftover; "
        "cd /etc/letsencrypt/live/leftover; for kind in cert chain fullchain privkey; do "
        f"ln -s ../../archive/leftover/$(basename $(readlink ../{domain}/$kind.pem)) $kind.pem; done"
    )
    announced = droplet.apply("web", "test=True").changed
    assert "leftover" in str(announced["certificate-issued"])
    assert "it came from https://acme-staging.example/dir" in str(announced["certificate-issued"])
    outcome = droplet.apply("web")
    assert outcome.code == 0, outcome.failed
    changes = outcome.states["certificate-issued"]["changes"]
    assert changes["removed"] == ["leftover"]
    assert "acme-staging.example" in str(changes["certificate"]["because"])
    assert served(droplet)["serial"] != before
    assert droplet.shell("ls /etc/letsencrypt/renewal").split() == [f"{domain}.conf"]
    assert droplet.apply("web").changed == {}


def test_damaged_lineage_is_replaced_under_its_own_name(droplet):
    domain = droplet.info["domain"]
    droplet.shell(f"rm /etc/letsencrypt/renewal/{domain}.conf")
    outcome = droplet.apply("web")
    assert outcome.code == 0, outcome.failed
    assert "damaged" in str(outcome.states["certificate-issued"]["changes"])
    assert sorted(droplet.shell("ls /etc/letsencrypt/live").split()) == sorted(["README", domain])
    assert droplet.apply("web").changed == {}
