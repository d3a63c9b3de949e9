"""Carries events to receivers over HTTP and WebSocket."""
