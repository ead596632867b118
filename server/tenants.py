"""What keeps tenants apart in the engine, and what an operator allows each of them."""

from __future__ import annotations

import msgspec


class Tenants(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's rules. A tenant that is not named has weight 1 and the common limit."""

    weights: dict[str, float] = {}
    """Shares of the engine and of its queue, in proportion to each other."""
    max_requests: int | None = None
    """Requests of one tenant that may be served and wait at once; None: any number."""
    max_requests_of: dict[str, int] = {}
    """The same for those that are named."""

    def weight(self, tenant: str) -> float:
        """Return a tenant's share."""
        return self.weights.get(tenant, 1.0)

    def limit(self, tenant: str) -> int | None:
        """Return how many requests of a tenant may be live; None where any number may."""
        return self.max_requests_of.get(tenant, self.max_requests)


EQUAL_TENANTS = Tenants()
"""No rules."""


def salt_of(tenant: str, salt: str) -> str:
    """Return the salt under which the engine keeps a request's prefixes: no two tenants share one.

    Neither names of tenants nor salts of callers may hold the slash, so nobody can write another's.
    """
    return f"{tenant}/{salt}" if tenant else salt
