"""Encryption at rest with one key per user, so that erasing somebody is deleting a key.

`places` says where everything lies, `fscrypt` speaks to the kernel, `keyring` keeps the keys. `folders`, `lobby` and `adopt`
put clips where they belong; `shred` takes somebody away, and `receipt` proves it.
"""
