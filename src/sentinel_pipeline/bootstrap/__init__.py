"""The map: the only place that sees everything, and joins it to a program."""
