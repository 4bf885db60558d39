"""Nodes that are often wanted."""
