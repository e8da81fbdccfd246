{%- from "map.jinja" import giggles with context %}
include:
  - app.account
{%- if "vault" in giggles.roles %}
  # What it makes of the folder for uploads comes first: nothing may be put there in the clear.
  - vault.folders
{%- endif %}

{%- set folders = [
  ("/opt/giggles", "root", "root", "0755"),
  ("/opt/giggles/releases", "root", "root", "0755"),
  ("/var/lib/giggles", "root", "giggles", "0750"),
  ("/var/lib/giggles/records", "root", "giggles", "0750"),
  ("/var/lib/giggles/uploads", "giggles", "giggles", "0750"),
  ("/var/cache/giggles", "giggles", "giggles", "0750"),
  ("/var/cache/giggles-build", "root", "giggles-build", "0750"),
  ("/var/log/giggles", "root", "giggles", "0750"),
] %}
{%- for path, user, group, mode in folders %}

folder-{{ path }}:
  file.directory:
    - name: {{ path }}
    - user: {{ user }}
    - group: {{ group }}
    - mode: '{{ mode }}'
    - follow_symlinks: False
    - require:
      - user: account-giggles
      - user: account-giggles-build
{%- if path == "/var/lib/giggles/uploads" and "vault" in giggles.roles %}
      - vault: vault-ready
{%- endif %}
{%- endfor %}

# The app may be taken over, and this runs as root below a folder of its own: nothing here follows a link. Salt's own
# file.* states change a path after looking at it, and must not be used here.
{%- for name in ["clips", "audio", "temp"] %}

folder-/var/lib/giggles/uploads/{{ name }}:
  giggles.folder:
    - name: /var/lib/giggles/uploads/{{ name }}
    - user: giggles
    - group: giggles
    - mode: '0750'
    - require:
      - file: folder-/var/lib/giggles/uploads
{%- endfor %}

uploads-private:
  giggles.tree:
    - name: /var/lib/giggles/uploads
    - user: giggles
    - group: giggles
    - dir_mode: '0750'
    - file_mode: '0640'
    - skip: [vaults, lost+found, .lobby]
    - require:
      - file: folder-/var/lib/giggles/uploads
