"""Programs that measure Sentinel Pipeline against floors and rivals; see README.md."""
