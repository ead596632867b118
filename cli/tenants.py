"""Flags for tenants: their shares and limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from cli.flags import Flag, UsageError
from cli.values import integer, number
from gate.keys import is_tenant
from server.tenants import Tenants

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Number = TypeVar("Number", int, float)


def _of_tenant(parse: Callable[[str], Number], *, is_named: bool) -> Callable[[str], tuple[str, Number]]:
    """Parse TENANT=NUMBER; where it need not be named, a number alone is for all, under the name ""."""

    def parse_pair(text: str) -> tuple[str, Number]:
        tenant, separator, value = text.strip().rpartition("=")
        form = "TENANT=N" if is_named else "N or TENANT=N"
        try:
            if is_tenant(tenant) if separator else not is_named:
                return tenant, parse(value)
        except ValueError as error:
            raise ValueError(f"{form}, where N is {error}") from error
        raise ValueError(f"{form}, TENANT being the name before a key")

    return parse_pair


TENANT_WEIGHTS = Flag(
    name="tenant-weights",
    field="tenant_weights",
    help="Shares of tenants, to which the engine and its queue are divided while several have requests.",
    parse=_of_tenant(number(0.001, 1000), is_named=True),
    metavar="TENANT=N",
    many=True,
    default="1 for each",
)
MAX_REQUESTS_PER_TENANT = Flag(
    name="max-requests-per-tenant",
    field="max_requests_per_tenant",
    help="Requests of one key's tenant that may be served and wait at once; TENANT=N is for that one.",
    parse=_of_tenant(integer(1), is_named=False),
    metavar="N",
    many=True,
    default="any number",
)
TENANT_FLAGS = (TENANT_WEIGHTS, MAX_REQUESTS_PER_TENANT)


def tenants(values: Mapping[str, Any]) -> Tenants:
    """Return the rules that these flags make.

    Raises:
        UsageError: a tenant is named twice.
    """
    weights = _by_tenant(TENANT_WEIGHTS, values.get(TENANT_WEIGHTS.field, ()))
    limits = _by_tenant(MAX_REQUESTS_PER_TENANT, values.get(MAX_REQUESTS_PER_TENANT.field, ()))
    common = limits.pop("", None)
    return Tenants(weights=weights, max_requests=common, max_requests_of=limits)


def _by_tenant(flag: Flag, pairs: Sequence[tuple[str, Number]]) -> dict[str, Number]:
    by_tenant: dict[str, Number] = {}
    for tenant, value in pairs:
        if tenant in by_tenant:
            raise UsageError(
                f'--{flag.name}: expected one number for each tenant, got two for "{tenant or "all"}"'
            )
        by_tenant[tenant] = value
    return by_tenant
