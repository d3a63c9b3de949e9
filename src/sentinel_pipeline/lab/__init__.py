"""Peers that misbehave on command, for demos, tests and benchmarks; not for production.

``rtsp_relay.RtspRelay`` is a camera and a media server in one.
"""
