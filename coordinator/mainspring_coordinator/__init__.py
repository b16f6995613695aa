"""The coordinator: keeps workflows in the database, decides which worker runs which node, and survives its own death."""

import os

# Before gRPC is loaded: what it tells of connections is no line of ours, and holds what peers have sent, line breaks included, so that a
# stranger could write lines of ours into the log.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
