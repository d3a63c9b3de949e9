"""The command line: ``sentinel``."""
