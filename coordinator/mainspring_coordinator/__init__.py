"""The coordinator: keeps workflows in the database, decides which worker runs which node, and survives its own death."""

import os

# Before gRPC is loaded: what it tells of connections is no line of ours, comes as often as a stranger likes, and holds what peers have
# sent, line breaks included, so that they could write lines that look like ours. What matters of it comes as errors.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
