include:
  - app.release

# Not tied to the release state's success: what was live before keeps running when a new release fails. Before the first
# release there is nothing to run.
app-running:
  giggles.active:
    - units: [giggles.socket, giggles.service]
    - needs: /opt/giggles/current
    - order: last
