"""The data plane of one stream."""
