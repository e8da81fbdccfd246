include:
  - app.release

# Not tied to the release state's success: what was live before keeps running when a new release fails. Before the first
# release there is nothing to start.
{%- for unit in ["giggles.socket", "giggles.service"] %}

app-running-{{ unit }}:
  service.running:
    - name: {{ unit }}
    - enable: True
    - onlyif:
      - fun: file.is_link
        path: /opt/giggles/current
    - order: last
{%- endfor %}
