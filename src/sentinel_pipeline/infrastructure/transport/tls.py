"""Whom a sink trusts."""

from __future__ import annotations

import ssl
from pathlib import Path

from sentinel_pipeline.domain.errors import ConfigError

Verify = bool | str | Path | ssl.SSLContext


def client_context(verify: Verify) -> ssl.SSLContext:
    """Return the TLS settings of a client.

    ``verify``: True trusts the system's certificate store (``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` apply), a path trusts
    the PEM file or hashed directory given, False trusts anybody, a context is used as it is (for client certificates).
    Raises ``ConfigError`` when the file cannot be read.
    """
    if isinstance(verify, ssl.SSLContext):
        return verify
    if isinstance(verify, bool):
        context = ssl.create_default_context()
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context
    place = Path(verify)
    try:
        if place.is_dir():
            return ssl.create_default_context(capath=place)
        return ssl.create_default_context(cafile=place)
    except OSError as exc:  # ssl.SSLError is one
        raise ConfigError(
            f"the CA file {str(place)!r} cannot be used: {exc}",
            remedy="give a PEM file with the receiver's CA certificate",
        ) from exc
