"""Events on their way out: accepted, stored, delivered at least once to every sink."""
