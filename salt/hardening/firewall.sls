firewall-exact:
  ufw.exactly:
    - rules:
      - {action: limit, port: 22, proto: tcp, comment: secure shell}
      - {action: allow, port: 80, proto: tcp, comment: web}
      - {action: allow, port: 443, proto: tcp, comment: web}
