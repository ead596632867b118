"""The `pagewire` command: turns flags and environment variables into configs and starts processes."""

import os

# gRPC's core reads this when it is first imported. It writes to standard error by itself, also what strangers
# sent, which could be lines that look like ours.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
