"""Adapters to the outside: video, models, receivers, storage."""
