"""The states of a WebSocket client and the moves between them."""

from __future__ import annotations

from enum import Enum


class ConnectionState(str, Enum):  # noqa: UP042 - the base classes are the document's
    """Where a connection is in its life."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


_S = ConnectionState
MOVES: dict[ConnectionState, frozenset[ConnectionState]] = {
    _S.DISCONNECTED: frozenset({_S.CONNECTING, _S.RECONNECTING, _S.CLOSED}),
    _S.CONNECTING: frozenset({_S.CONNECTED, _S.RECONNECTING, _S.DISCONNECTED, _S.CLOSED}),
    _S.CONNECTED: frozenset({_S.RECONNECTING, _S.DISCONNECTED, _S.CLOSED}),
    _S.RECONNECTING: frozenset({_S.CONNECTED, _S.DISCONNECTED, _S.CLOSED}),
    _S.CLOSED: frozenset({_S.CONNECTING, _S.RECONNECTING}),
}


def move(old: ConnectionState, new: ConnectionState) -> ConnectionState:
    """Return ``new`` when the table allows the move (staying is allowed), else raise ``RuntimeError``."""
    if new is not old and new not in MOVES[old]:
        raise RuntimeError(f"a connection cannot go from {old.value} to {new.value}")
    return new
