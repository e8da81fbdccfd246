# nginx serves the app: it starts with a placeholder certificate, and never with a configuration it has not tested.
{%- from "map.jinja" import giggles with context %}
include:
  - common.validate

nginx-packages-installed:
  pkg.installed:
    - pkgs: [nginx, logrotate]

placeholder-certificate-present:
  certbot.placeholder_present:
    - name: /etc/nginx/tls/placeholder
    - require:
      - pkg: nginx-packages-installed

certificate-linked:
  certbot.linked:
    - name: /etc/nginx/tls/current
    - placeholder: /etc/nginx/tls/placeholder
    - certificate: {{ giggles.domain | tojson }}
    - require:
      - certbot: placeholder-certificate-present

acme-webroot-present:
  file.directory:
    - name: /var/lib/giggles-acme
    - user: root
    - group: root
    - mode: '0755'

nginx-unavailable-page:
  file.managed:
    - name: /usr/local/share/giggles/web/giggles-unavailable.html
    - source: salt://web/files/usr/local/share/giggles/web/giggles-unavailable.html
    - user: root
    - group: root
    - mode: '0644'
    - makedirs: True

nginx-site-test:
  file.managed:
    - name: /usr/local/lib/giggles/nginx-site-alone.conf
    - source: salt://web/files/usr/local/lib/giggles/nginx-site-alone.conf
    - user: root
    - group: root
    - mode: '0644'
    - makedirs: True

# The site is tested without nginx.conf, and nginx.conf with the site: so each can be repaired while the other is broken.
nginx-site-giggles:
  file.managed:
    - name: /etc/nginx/sites-available/giggles
    - source: salt://web/files/etc/nginx/sites-available/giggles
    - template: jinja
    - user: root
    - group: root
    - mode: '0644'
    - makedirs: True
    - context:
        domain: {{ giggles.domain | tojson }}
        aliases: {{ giggles.aliases | tojson }}
        ipv6: {{ salt["file.file_exists"]("/proc/net/if_inet6") | tojson }}
        http2: {{ giggles.os.nginx.http2 | tojson }}
        reject_handshake: {{ giggles.os.nginx.reject_handshake | tojson }}
        tls_groups: {{ giggles.os.tls_groups | tojson }}
        hsts_subdomains: {{ giggles.web.hsts_subdomains | tojson }}
        max_upload_mb: {{ giggles.web.max_upload_mb }}
        noindex: {{ giggles.web.noindex | tojson }}
        only_from: {{ giggles.web.only_from | tojson }}
        status_page: {{ ("monitoring" in giggles.roles) | tojson }}
        auth_requests_per_minute: {{ giggles.web.auth_requests_per_minute }}
        auth_burst: {{ [giggles.web.auth_requests_per_minute // 2, 1] | max }}
        static_folder: {{ ["/opt/giggles/current", giggles.app.subdirectory.strip("/"), "static"] | reject("equalto", "") | join("/") | tojson }}
    - check_cmd: /usr/local/lib/giggles/validate /etc/nginx /etc/nginx/sites-enabled/giggles nginx -q -t -c /usr/local/lib/giggles/nginx-site-alone.conf
    - require:
      - file: validator-installed
      - file: nginx-site-test
      - certbot: certificate-linked

nginx-site-giggles-enabled:
  file.symlink:
    - name: /etc/nginx/sites-enabled/giggles
    - target: /etc/nginx/sites-available/giggles
    - force: True
    - makedirs: True
    - require:
      - file: nginx-site-giggles

nginx-configuration:
  file.managed:
    - name: /etc/nginx/nginx.conf
    - source: salt://web/files/etc/nginx/nginx.conf
    - user: root
    - group: root
    - mode: '0644'
    - check_cmd: /usr/local/lib/giggles/validate /etc/nginx /etc/nginx/nginx.conf nginx -q -t
    - require:
      - file: nginx-site-giggles-enabled

{% for folder, kept in {
    "sites-available": ["nginx-site-giggles"],
    "sites-enabled": ["nginx-site-giggles-enabled"],
    "conf.d": [],
    "modules-enabled": [],
    "snippets": [],
}.items() %}
nginx-{{ folder }}-exact:
  file.directory:
    - name: /etc/nginx/{{ folder }}
    - user: root
    - group: root
    - mode: '0755'
    - clean: True
    - require:
      - file: nginx-configuration
{%- for state in kept %}
      - file: {{ state }}
{%- endfor %}
{% endfor %}

nginx-unit-override:
  file.managed:
    - name: /etc/systemd/system/nginx.service.d/giggles.conf
    - source: salt://web/files/etc/systemd/system/nginx.service.d/giggles.conf
    - user: root
    - group: root
    - mode: '0644'
    - makedirs: True

nginx-unit-overrides-exact:
  file.directory:
    - name: /etc/systemd/system/nginx.service.d
    - clean: True
    - require:
      - file: nginx-unit-override

nginx-unit-not-replaced:
  file.absent:
    # A copy of the unit made by hand, or the mask that systemctl puts there.
    - name: /etc/systemd/system/nginx.service

nginx-units-reloaded:
  cmd.run:
    - name: systemctl daemon-reload
    - onchanges:
      - file: nginx-unit-override
      - file: nginx-unit-overrides-exact
      - file: nginx-unit-not-replaced

# Starting tests the configuration as well (ExecStartPre), so that neither state can serve an invalid one.
nginx-running:
  units.running:
    - name: nginx.service
    - require:
      - file: nginx-configuration
      - file: nginx-unavailable-page
      - file: acme-webroot-present
      - cmd: nginx-units-reloaded

nginx-reloaded:
  cmd.run:
    - name: nginx -q -t && systemctl reload nginx
    - onchanges:
      - file: nginx-site-giggles
      - file: nginx-site-giggles-enabled
      - file: nginx-configuration
      - certbot: placeholder-certificate-present
      - certbot: certificate-linked
      # Workers that could not open their logs anew go on in the rotated ones until then.
      - file: nginx-logs-private
    - require:
      - units: nginx-running

# Workers open their logs anew by themselves after each rotation, so they must get through the folder, and no more than that:
# in a folder of theirs they could put a link in a log's place, which the master opens as root.
nginx-logs-private:
  file.directory:
    - name: /var/log/nginx
    - user: root
    - group: adm
    - mode: '0751'
    - require:
      - pkg: nginx-packages-installed

nginx-logs-rotated:
  file.managed:
    - name: /etc/logrotate.d/nginx
    - source: salt://web/files/etc/logrotate.d/nginx
    - user: root
    - group: root
    - mode: '0644'
    - check_cmd: logrotate --debug --state /dev/null
    - require:
      - pkg: nginx-packages-installed
