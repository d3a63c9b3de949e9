"""Sentinel Pipeline: real-time video AI for many cameras."""

from importlib.metadata import version

__version__ = version("sentinel-pipeline")
