"""Several droplets on one database: whose users each one's nightly job takes, and that no two take the same."""
