# The certificate is requested through the running nginx, and served as soon as it is there.
{%- from "map.jinja" import giggles with context %}
include:
  - web.nginx
  - web.certbot

certbot-settings:
  file.managed:
    - name: /etc/letsencrypt/cli.ini
    - source: salt://web/files/etc/letsencrypt/cli.ini
    - user: root
    - group: root
    - mode: '0644'
    - makedirs: True

certificate-issued:
  certbot.certificate:
    - name: {{ giggles.domain | tojson }}
    - domains: {{ ([giggles.domain] + giggles.aliases) | tojson }}
    - directory: {{ giggles.web.acme.directory | tojson }}
    - email: {{ giggles.web.acme.email | tojson }}
    - ca_bundle: {{ giggles.web.acme.ca_bundle | tojson }}
    - webroot: /var/lib/giggles-acme
    - require:
      - file: certbot-settings
      - certbot: certbot-installed
      - units: nginx-running
      - cmd: nginx-reloaded

certificate-served:
  certbot.linked:
    - name: /etc/nginx/tls/current
    - placeholder: /etc/nginx/tls/placeholder
    - certificate: {{ giggles.domain | tojson }}
    - onchanges:
      - certbot: certificate-issued

nginx-serves-certificate:
  cmd.run:
    - name: nginx -q -t && systemctl reload nginx
    - onchanges:
      - certbot: certificate-issued
    - require:
      - certbot: certificate-served

# certbot hands a key's mode on to the next one, so an open one would stay open.
certificate-keys-private:
  certbot.keys_private: []
