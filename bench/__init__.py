"""Benchmarks: what the system costs, measured from the outside on a real cluster."""
