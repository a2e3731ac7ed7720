"""Defences: what trains, transforms, detects, filters, inspects, repairs."""
