"""What keeps tenants apart in the engine."""

from __future__ import annotations


def salt_of(tenant: str, salt: str) -> str:
    """Return the salt under which the engine keeps a request's prefixes: no two tenants share one.

    Neither names of tenants nor salts of callers may hold the slash, so nobody can write another's.
    """
    return f"{tenant}/{salt}" if tenant else salt
