"""Kinds of units that several measures build on: data, models, poisoned sets, maps."""
