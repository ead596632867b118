"""The version that runs."""

from importlib.metadata import PackageNotFoundError, version


def _installed_version() -> str:
    try:
        return version("pagewire")
    except PackageNotFoundError:  # a bare checkout
        return "unknown"


VERSION = _installed_version()
SYSTEM_FINGERPRINT = f"pagewire-{VERSION}"
