"""What a reason code of MQTT 5 (section 2.4) means for the batch that was sent. Pure."""

from __future__ import annotations

from sentinel_pipeline.domain.errors import DeliveryError, PayloadTooLarge, Rejected, TransportError, Unauthorised
from sentinel_pipeline.infrastructure.transport.failures import RESENT

TOO_LARGE = 0x95
_BAD_PAYLOAD = 0x99
_BAD_LOGIN = frozenset({0x86, 0x8A, 0x8C})  # user name or password, banned, authentication method
_NOT_AUTHORISED = 0x87

# The events are kept in all these cases; the remedy is what differs.
_REMEDIES = {
    0x84: "the broker must speak MQTT 5: use a newer one, or switch MQTT 5 on in it",
    0x85: "the broker does not like the client identifier: allow it there",
    0x8E: "another program uses the same client identifier, host and topic prefix: give each sink a prefix of its own",
    0x90: "correct the topic prefix in the sink's URL",
    0x9A: "allow retained messages in the broker",
    0x9B: "allow QoS 1 in the broker",
    0x9C: "give the URL of the server that the broker points to",
    0x9D: "give the URL of the server that the broker points to",
}


def judge(code: int, name: str, place: str, *, about_batch: bool) -> TransportError:
    """Return what reason code ``code`` (>= 0x80) means.

    name: the code in words. place: which broker, for the message.
    about_batch: the code answers a batch; one that ended or refused a connection says nothing about any event, so that
    it never costs one: it is never ``Rejected`` or ``PayloadTooLarge``.

    - not authorised, bad credentials, banned: ``Unauthorised``.
    - packet too large: ``PayloadTooLarge``. Payload format invalid: ``Rejected``.
    - everything else (quota exceeded, busy, moved, an invalid topic …): ``DeliveryError``.
    """
    said = f"{place} answered 0x{code:02x}: {name}"
    if code == _NOT_AUTHORISED or code in _BAD_LOGIN:
        remedy = "correct the sink's credentials, or the broker's access list; events are kept meanwhile"
        return Unauthorised(said, remedy=remedy)
    if about_batch and code == TOO_LARGE:
        return PayloadTooLarge(said, remedy="the batch is sent again in halves; lower batch.max_events")
    if about_batch and code == _BAD_PAYLOAD:
        return Rejected(said, remedy="these events are in the dead-letter table: `sentinel events dead`")
    return DeliveryError(said, remedy=_REMEDIES.get(code, RESENT))
