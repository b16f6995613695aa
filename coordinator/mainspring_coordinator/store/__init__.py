"""The store: what is durable, behind one small protocol."""
