# What the backup of the database needs: pg_dump, and for the drill a PostgreSQL of its own that runs only while it is needed.
{%- from "map.jinja" import giggles with context %}
{%- if giggles.backup.bucket and giggles.backup.database.enabled %}

# Before the package, which would otherwise make a cluster that runs and listens for good.
database-server-makes-no-cluster:
  file.managed:
    - name: /etc/postgresql-common/createcluster.conf
    - source: salt://backup/files/etc/postgresql-common/createcluster.conf
    - user: root
    - group: root
    - mode: '0644'
    - makedirs: True
    - follow_symlinks: False

backup-packages-installed:
  pkg.installed:
    - pkgs: {{ giggles.os.postgresql | tojson }}
    - install_recommends: False
    - require:
      - file: database-server-makes-no-cluster
{%- endif %}
