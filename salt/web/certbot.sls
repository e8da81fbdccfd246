# certbot in a virtual environment of its own: the distribution's is too old to renew by the authority's word (ARI).
# Each lock has its own folder, built beside the one in use; `current` leads to it once it is complete.
{%- from "map.jinja" import giggles with context %}
{%- set lock = salt["cp.hash_file"]("salt://web/files/opt/certbot/certbot.txt").hsum[:16] %}
{%- set folder = "/opt/certbot/" ~ lock ~ "-python" ~ giggles.os.python %}

distribution-certbot-removed:
  pkg.removed:
    - pkgs: [certbot, python3-certbot, python3-certbot-nginx]

certbot-lock:
  file.managed:
    - name: /opt/certbot/certbot.txt
    - source: salt://web/files/opt/certbot/certbot.txt
    - user: root
    - group: root
    - mode: '0644'
    - makedirs: True

certbot-built:
  cmd.run:
    - name: >-
        rm -rf {{ folder }}
        && /opt/giggles-tools/uv/bin/uv venv --quiet --python /usr/bin/python3 {{ folder }}
        && /opt/giggles-tools/uv/bin/uv pip install --quiet --python {{ folder }}/bin/python
        --no-deps --require-hashes --requirements /opt/certbot/certbot.txt
        && {{ folder }}/bin/certbot --version
        && touch {{ folder }}/complete
    - creates:
      - {{ folder }}/bin/python
      - {{ folder }}/bin/certbot
      - {{ folder }}/complete
    - env:
      - UV_SYSTEM_CERTS: '1'
      - UV_NO_CACHE: '1'
      - UV_NO_CONFIG: '1'
      - UV_PYTHON_DOWNLOADS: never
      - UV_LINK_MODE: copy
    - timeout: 300
    - require:
      - file: certbot-lock

certbot-current:
  file.symlink:
    - name: /opt/certbot/current
    - target: {{ folder }}
    - force: True
    - require:
      - cmd: certbot-built

certbot-older-removed:
  file.directory:
    - name: /opt/certbot
    - clean: True
    - exclude_pat: 'E@^{{ folder.rpartition("/")[2] }}(/.*)?$'
    - require:
      - file: certbot-lock
      - file: certbot-current
