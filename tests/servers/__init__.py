"""Private database servers for tests, benchmarks and chaos: own folder, own port on loopback, stopped by process id."""
