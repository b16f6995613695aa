"""The coordinator: keeps workflows in the database, decides which worker runs which node, and survives its own death."""
