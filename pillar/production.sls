#!quiet_yaml
# What only the production droplet chooses. Later files win: giggles.sls, then this one, then droplet.sls.
giggles:
  environment: production
#  domain: giggles.example.com
#  aliases: [www.giggles.example.com]
