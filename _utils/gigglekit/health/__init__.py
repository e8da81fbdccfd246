"""What the droplet knows of itself: how its runs went, what is wrong now, and who is told.

Runs leave records (`gigglekit.records`); `status` draws a verdict from them and from the machine, `page` shows it. Nothing here
imports `vault`, `backup` or `operations`: what they leave in records and small files is all there is to go by.
"""
