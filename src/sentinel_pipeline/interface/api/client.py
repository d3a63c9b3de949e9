"""Asks a running program for its report."""

from __future__ import annotations

from typing import Any

import httpx

from sentinel_pipeline.domain.errors import SentinelError


def ask_status(host: str, port: int, token: str) -> dict[str, Any]:
    """Return the report. Raises ``SentinelError`` when nothing answers there, or something else does."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - translating, not binding
    where = f"[{reachable}]:{port}" if ":" in reachable else f"{reachable}:{port}"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        reply = httpx.get(f"http://{where}/api/v1/status", headers=headers, timeout=5.0, trust_env=False)
        reply.raise_for_status()
        report = reply.json()
        if not isinstance(report, dict) or "streams" not in report:
            raise ValueError
    except httpx.HTTPStatusError as exc:
        remedy = "give the program's --config, or set SENTINEL_TOKEN" if exc.response.status_code == 401 else ""
        raise SentinelError(f"{where} answered {exc.response.status_code}", remedy=remedy) from exc
    except httpx.HTTPError as exc:
        raise SentinelError(
            f"no program answers at {where}", remedy="start one with `sentinel run`, or name its --config"
        ) from exc
    except ValueError as exc:
        raise SentinelError(f"what answers at {where} is not sentinel", remedy="name the program's --config") from exc
    return report
