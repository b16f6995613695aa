"""One module a revision, numbered; each is one idempotent step, and none is changed once released."""
