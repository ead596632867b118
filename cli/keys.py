"""Flags for keys: those that open a server's doors, and the one that a client shows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cli.flags import Flag, UsageError
from cli.values import existing_file
from gate.keys import (
    EXPECTED,
    KeyFileError,
    is_secret,
    parse_key,
    parse_literal,
    parse_secret,
    read_secrets,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gate.keys import Key, Secret

_VLLM_VARIABLE = "VLLM_API_KEY"


def _one_secret(text: str) -> tuple[Secret]:
    return (parse_literal(text),)


def _one_key(text: str) -> tuple[Key]:
    return (parse_literal(text).key,)


def _shown_literal(text: str) -> str | None:
    return parse_literal(text).shown


API_KEY = Flag(
    name="api-key",
    field="api_keys",
    help=f"Keys that callers must show; each is {EXPECTED}.",
    parse=parse_key,
    metavar="KEY",
    many=True,
    default="none, open to all",
    more_variables=("PAGEWIRE_API_KEYS",),
    foreign_variables=((_VLLM_VARIABLE, _one_key),),
    secret=True,
)
API_KEY_FILE = Flag(
    name="api-key-file",
    field="api_key_file",
    help="A file of more keys, one a line, # begins a comment; read again when it changes.",
    parse=existing_file,
    metavar="FILE",
)
ADMIN_API_KEY = Flag(
    name="admin-api-key",
    field="admin_api_keys",
    help="Keys of AdminService, which takes no others.",
    parse=parse_key,
    metavar="KEY",
    many=True,
    default="none, open to all",
    secret=True,
)
ADMIN_API_KEY_FILE = replace(
    API_KEY_FILE, name="admin-api-key-file", field="admin_api_key_file", help="A file of more of them."
)
SERVER_KEYS = (API_KEY, API_KEY_FILE, ADMIN_API_KEY, ADMIN_API_KEY_FILE)

# The translator shows an operator's key itself, so it keeps the text; and so does `up` with both kinds.
ADMIN_SECRET = replace(ADMIN_API_KEY, field="admin_secrets", parse=parse_secret)
TRANSLATOR_KEYS = (API_KEY, API_KEY_FILE, ADMIN_SECRET, ADMIN_API_KEY_FILE)
API_SECRET = replace(
    API_KEY,
    field="api_secrets",
    parse=parse_secret,
    foreign_variables=((_VLLM_VARIABLE, _one_secret),),
)
UP_KEYS = (API_SECRET, API_KEY_FILE, ADMIN_SECRET, ADMIN_API_KEY_FILE)


def shown_key(text: str) -> str:
    """Parse the key that a client shows: that of KEY or TENANT:KEY, the first one of several."""
    secret = text.split(",")[0].strip().rpartition(":")[2]
    if not is_secret(secret.encode()):
        raise ValueError(EXPECTED)
    return secret


def variables_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment that gives a child these secrets: its command line is there for all to read."""
    return {
        flag.variable: ",".join(secret.text for secret in values[flag.field])
        for flag in (API_SECRET, ADMIN_SECRET)
        if flag.field in values
    }


def key_to_show(values: Mapping[str, Any]) -> str | None:
    """Return a key that opens a server of these secrets; None if none is needed or known in full.

    Raises:
        UsageError: the file of keys cannot be used.
    """
    secrets = list(values.get(API_SECRET.field, ()))
    if API_KEY_FILE.field in values:
        try:
            secrets += read_secrets(values[API_KEY_FILE.field])
        except KeyFileError as error:
            raise UsageError(f"--{API_KEY_FILE.name}: {error}") from error
    return next((secret.shown for secret in secrets if secret.shown is not None), None)


def key_header(api_key: str | None) -> dict[str, str]:
    """Return the HTTP header that shows a key."""
    return {} if api_key is None else {"authorization": f"Bearer {api_key}"}


CLIENT_KEY = Flag(
    name="api-key",
    field="api_key",
    help="The key to show.",
    parse=shown_key,
    metavar="KEY",
    default="none",
    more_variables=API_KEY.more_variables,
    foreign_variables=((_VLLM_VARIABLE, _shown_literal),),
    secret=True,
)
