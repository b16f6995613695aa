"""The generated Python side of the wire contract (protos/mainspring/v1); written by `make protos`, never by hand."""
