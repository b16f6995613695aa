"""`mainspring simulate`: the engine on virtual time, against a described or recorded fleet and workload."""
