"""Supervision of streams."""
