{%- from "map.jinja" import giggles with context %}
app-packages-installed:
  pkg.installed:
    - pkgs: {{ (giggles.app.packages + ["git", "openssh-client", "python3", "logrotate"]) | unique | tojson }}
    - install_recommends: False
