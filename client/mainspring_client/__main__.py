"""`python -m mainspring_client` is the `mainspring` command, where its script is not on the path."""

from mainspring_client.cli import main

main()
