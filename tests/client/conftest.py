"""Fixtures of the client's tests: `client_fixtures`."""

from client_fixtures import no_address_from_outside, open_client, picture, server

__all__ = ["no_address_from_outside", "open_client", "picture", "server"]
