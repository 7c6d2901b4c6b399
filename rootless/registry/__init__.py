"""Registries (OCI distribution-spec): their addresses, certificates, proxies and credentials, and a client of them.

Used by `images` (pull, push), by the API (login, search) and by the command line's `manifest` and `login`."""
