"""A synchronous client of the Docker Engine API on a Unix socket: what the command line talks through.

Owns HTTP on the socket, hijacked streams, starting the engine. Leaves to the command line what requests mean and what
is printed. No trio, no httpx: what is imported here is paid by every single command."""

from rootless.client.client import Client
from rootless.client.connection import ApiError, ConnectionLost, Hijacked, Response
from rootless.client.endpoint import Endpoint, resolve_endpoint

__all__ = ["ApiError", "Client", "ConnectionLost", "Endpoint", "Hijacked", "Response", "resolve_endpoint"]
