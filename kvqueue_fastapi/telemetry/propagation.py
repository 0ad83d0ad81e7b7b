"""Trace context in the headers of messages."""

from collections.abc import Mapping
from dataclasses import replace

from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.trace import Link, get_current_span

from kvqueue_fastapi.codec import checked_headers
from kvqueue_fastapi.errors import InvalidOptionError
from kvqueue_fastapi.outgoing import OutgoingMessage


def carried(context: Context) -> dict[str, str]:
    """What the propagators would have travel; {}: nothing is recorded, nothing to be told."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context)
    return carrier


def with_context(message: OutgoingMessage, carrier: Mapping[str, str]) -> OutgoingMessage:
    """Give a message the context as well; the same message, where that does not fit.

    Headers of the sender's stay as they are, but for those of a trace that nobody could read.
    What is sent matters more than its trace: where the headers would become too large, as much
    as fits of the context goes, or none.
    """
    unread = propagate.get_global_textmap().fields - {"baggage"}
    own = {
        name: text
        for name, text in (message.options.headers or {}).items()
        if name not in unread or own_links(message)
    }
    without_baggage = {name: text for name, text in carrier.items() if name != "baggage"}
    for part in (carrier, without_baggage):
        headers = {**part, **own}
        try:
            checked_headers(headers)
        except InvalidOptionError:
            continue
        return replace(message, options=replace(message.options, headers=headers))
    return message


def extracted(headers: Mapping[str, str]) -> Context:
    """The context in which a message was sent; that of whoever handles it stays outside."""
    return propagate.extract(headers, context=Context())


def links_to(context: Context) -> list[Link]:
    """A link to the span of a context; []: it has none."""
    span_context = get_current_span(context).get_span_context()
    return [Link(span_context)] if span_context.is_valid else []


def own_links(message: OutgoingMessage) -> list[Link]:
    """A link to the context that the sender has put into the headers by himself; []: he has not."""
    headers = message.options.headers
    return links_to(extracted(headers)) if headers else []
