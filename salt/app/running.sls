include:
  - app.release

# Not tied to the release state's success: what was live before keeps running when a new release fails. Before the first
# release there is nothing to run.
app-running:
  units.running:
    - units: [giggles.socket, giggles.service]
    - needs: /opt/giggles/current
    - order: last

# Only nginx may talk to the app.
app-socket-private:
  giggles.socket:
    - name: /run/giggles.sock
    - user: giggles
    - group: www-data
    - mode: '0660'
    - order: last
