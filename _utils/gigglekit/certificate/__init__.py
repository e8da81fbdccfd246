"""The TLS certificate: the placeholder before there is one, what lies on disk, when a new one is due, how it is got."""
