"""The `pagewire` command: turns flags and environment variables into configs and starts processes."""
