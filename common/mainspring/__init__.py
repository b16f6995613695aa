"""Mainspring: durable workflows for teams that already run MySQL.

This package is the language that clients, workers and coordinators share: nouns, ids, bounds, errors, the wire contract.
"""
