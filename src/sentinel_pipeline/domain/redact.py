"""Takes credentials out of any text before a person, a log or a metric sees it.

The one place that knows what a credential looks like: passwords in URLs (raw, percent-encoded, nested in a query),
query tokens, ``Authorization`` and similar headers, ``"password": "…"`` in JSON, YAML and reprs. Where a text is
ambiguous too much is masked rather than too little. Time is linear in the length of the text.
"""

from __future__ import annotations

import re

from sentinel_pipeline.domain.credentials import userinfo_end

MASK = "****"

_RUN = re.compile(r"\S+")
_URL_START = re.compile(
    r"(?<![A-Za-z0-9+.\-])(?:rtsp[su]?|https?|rtmp[est]{0,2}|srt|udp|tcp|tls|rtp|wss?|ftps?|mqtts?|amqps?)://", re.I
)
_HOST_PORT = re.compile(r"(?:[\w.\-]+|\[[0-9A-Fa-f:.%]+\])(?::\d+)?(?=[/?#,;|\"'<>)\]}]|$)")
_QUOTED_SCHEME = re.compile(r"([\"'`<(\[])[A-Za-z][A-Za-z0-9+.\-]{0,15}$")
_CLOSING = {'"': '"', "'": "'", "`": "`", "<": ">", "(": ")", "[": "]"}
_ENCODED_URL = re.compile(
    r"(%3A%2F%2F(?:(?!%40|%2F|%3F|%23|%3A)[^\s&@])*%3A)(?:(?!%3A%2F%2F)[^\s&@\"'<>])*(?=%40)", re.I
)

_NAME = re.compile(
    r"(?<![\w.\-@])(?<!//)(?P<name>[A-Za-z_][\w.\-]{1,63})(?P<close>\\?[\"'])?"
    r"(?P<sep>[ \t]?[=:,][ \t]{0,4})(?P<quote>[bu]?\\?[\"'])?"
)
_SECRET = re.compile(
    r"passw|passphrase|pwd$|^pass$|secret|token$|credential|(?:api|access|private|auth)[_\-]?key", re.I
)
_PROSE = re.compile(r"token|credential", re.I)  # "invalid token: line 3" holds no secret
_QUERY_SECRET = re.compile(r"key|auth|sig|^pw$|^pass|session|jwt", re.I)
_HEADER = re.compile(r"(?:proxy-)?authorization|(?:set-)?cookie|x-api-key|x-auth[\w\-]*|x-[\w\-]*token", re.I)
_AUTH_SCHEME = re.compile(r"(?:Bearer|Basic|Digest|Negotiate|NTLM|Token|ApiKey)[ \t]+", re.I)
_ONE_WORD_SCHEME = re.compile(r"Bearer|Basic|Token|ApiKey", re.I)
_LOOSE = re.compile(r"\b(Bearer|Basic)([ \t]+)([A-Za-z0-9._~+/\-]{8,}=*)", re.I)
_LOOKS_RANDOM = re.compile(r"[0-9=]|.[A-Z]")

_BARE_VALUE = re.compile(r"(?:[^\s&\"<>']|'(?=[^\s:,;)\]}]))*")
_LINE = re.compile(r"[^\r\n]*")
_CLOSED_BY = {
    '"': re.compile(r'(?:[^"\\]|\\.)*', re.S),
    "'": re.compile(r"(?:[^'\\]|\\.)*", re.S),
    '\\"': re.compile(r'(?:[^\\]|\\(?!"))*', re.S),
    "\\'": re.compile(r"(?:[^\\]|\\(?!'))*", re.S),
}


def redact(text: str) -> str:
    """Return ``text`` with every credential replaced by ``****``; idempotent, never raises.

    ``rtsp://admin:secret@host`` becomes ``rtsp://admin:****@host``: the user is kept, it helps in finding the camera.
    """
    text = _RUN.sub(lambda run: _redact_run(run[0]), text)
    return _LOOSE.sub(_redact_loose, _redact_named(text))


def _redact_run(run: str) -> str:
    """Redact URLs in a text without white space, which may hold several (JSON, comma-separated lists)."""
    if "%40" in run:
        run = _ENCODED_URL.sub(rf"\g<1>{MASK}", run)
    if "@" not in run or "://" not in run:
        return run
    cuts = _cuts(run)
    return "".join(_redact_segment(run[a:b]) for a, b in zip([0, *cuts], [*cuts, len(run)], strict=True))


def _cuts(run: str) -> list[int]:
    """Return where a further URL begins. One that begins inside what may be a raw password does not count."""
    cuts: list[int] = []
    at, host_end = -1, -1
    for number, found in enumerate(_URL_START.finditer(run)):
        begin, rest = found.span()
        if number == 0 or at < begin or host_end <= begin:
            if number > 0:
                cuts.append(begin)
            at = run.find("@", rest)
            host = _HOST_PORT.match(run, rest)
            host_end = host.end() if host else len(run) + 1
            at = at if at >= 0 else len(run)
    return cuts


def _redact_segment(text: str) -> str:
    """Mask the password of the URL in ``text``, and of URLs nested in it."""
    out, done, position = [], 0, 0
    last_at = text.rfind("@")
    while (slashes := text.find("://", position)) >= 0 and slashes < last_at:
        position = slashes + 3
        at = userinfo_end(text, position, _quote_end(text, slashes, position), cautious=True)
        colon = text.find(":", position, at) if at >= 0 else -1
        if colon >= 0:
            out += [text[done : colon + 1], MASK]
            done = at
        position = max(position, at)
    return "".join([*out, text[done:]])


def _quote_end(text: str, slashes: int, start: int) -> int:
    """Return where the URL ends when it stands in quotes or brackets; a quote inside a raw password does not count."""
    opened = _QUOTED_SCHEME.search(text, max(0, slashes - 17), slashes)
    if not opened:
        return len(text)
    closing, end = _CLOSING[opened[1]], start
    for _ in range(4):  # more quotes than that in one password are masked with what follows
        end = text.find(closing, end)
        if end < 0:
            break
        host = _HOST_PORT.match(text, start, end)
        if text.find("@", start, end) >= 0 or (host and host.end() > start):
            return end
        end += 1
    return len(text)


def _redact_named(text: str) -> str:
    """Mask values that stand behind a telling name: query items, headers, JSON, YAML and reprs."""
    out, done, position = [], 0, 0
    while found := _NAME.search(text, position):
        position = found.end("name")
        header = bool(_HEADER.fullmatch(found["name"]))
        if not (header or _is_secret(found)):
            continue
        start, end = _value(text, found, header=header)
        if end > start:
            out += [text[done:start], MASK]
            done = position = end
    return "".join([*out, text[done:]])


def _is_secret(found: re.Match[str]) -> bool:
    name, separator = found["name"], found["sep"].strip()
    before = found.string[found.start() - 1 : found.start()]
    if separator == "=":
        return bool(_SECRET.search(name) or (before in "?&;" and before and _QUERY_SECRET.search(name)))
    if found["close"]:
        return bool(_SECRET.search(name)) and (separator == ":" or bool(found["quote"]))
    return separator == ":" and bool(_SECRET.search(name)) and not _PROSE.search(name)


def _value(text: str, found: re.Match[str], *, header: bool) -> tuple[int, int]:
    """Return the span to mask behind a name; an authentication scheme's name stays readable."""
    start = found.end()
    scheme = _AUTH_SCHEME.match(text, start) if header else None
    if found["quote"]:
        end = _span_end(_CLOSED_BY[found["quote"].lstrip("bu")], text, start)
    elif not header or (scheme and _ONE_WORD_SCHEME.match(scheme[0])):
        end = _span_end(_BARE_VALUE, text, scheme.end() if scheme else start)
        end = start + len(text[start:end].rstrip(",;:)]}"))
        if text[start:end][:1] in ("{", "["):
            end = start
    else:
        end = _span_end(_LINE, text, start)
    return (scheme.end() if scheme and scheme.end() < end else start), end


def _span_end(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    return found.end() if found else start


def _redact_loose(found: re.Match[str]) -> str:
    """Mask ``Bearer eyJ…`` without a header's name before it, but not "Basic authentication"."""
    return f"{found[1]}{found[2]}{MASK}" if _LOOKS_RANDOM.search(found[3]) else found[0]
