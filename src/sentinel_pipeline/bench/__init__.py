"""``sentinel bench``: how many cameras this machine carries, and whether that is true."""
