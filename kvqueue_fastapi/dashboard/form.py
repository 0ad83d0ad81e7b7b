"""What a form sends, read without a package for it."""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qs

from starlette.requests import Request

from kvqueue_fastapi.errors import KvQueueError

_LONGEST_ID: Final = 20
_PLACE: Final = re.compile(r"(?:messages|dead|messages/-?\d{1,20})?(?:\?[!-~]*)?")
_MAX_FIELDS: Final = 2_000
_OVERHEAD_BYTES: Final = 65_536
_GROWTH: Final = 6
"""What a byte of a payload may take in a form: as `%XX`, and once more as an escape."""


class Form:
    """The fields of a form, each as often as it was sent."""

    def __init__(self, fields: dict[str, list[str]]) -> None:
        self._fields = fields

    def text(self, name: str) -> str:
        """The last value of a field; "" where it is none."""
        return self.texts(name)[-1] if self.texts(name) else ""

    def texts(self, name: str) -> Sequence[str]:
        """All values of a field, in order."""
        return self._fields.get(name, [])

    @property
    def ids(self) -> list[int]:
        """The message ids, each once; what is none is left out."""
        numbers = (number_of(text) for text in self.texts("id"))
        return list(dict.fromkeys(number for number in numbers if number is not None))

    @property
    def place(self) -> str:
        """Where the form was, below the overview: nowhere else."""
        place = self.text("back")
        return place if _PLACE.fullmatch(place) else ""


async def read_form(request: Request, max_payload_bytes: int) -> Form:
    """Read the form that a request brings, also where a dependency has read it before.

    Raises:
        KvQueueError: it is no such form, or too long.
    """
    try:
        body = await _body(request, _OVERHEAD_BYTES + _GROWTH * max_payload_bytes)
    except RuntimeError:
        # Starlette says so where a dependency has taken the body, and keeps the form for it.
        return Form(await _kept(request))
    try:
        fields = parse_qs(
            body.decode("utf-8", "replace"),
            keep_blank_values=True,
            max_num_fields=_MAX_FIELDS,
            errors="replace",
        )
    except ValueError as exc:
        msg = f"The form has more than {_MAX_FIELDS} fields. Select fewer messages."
        raise KvQueueError(msg) from exc
    return Form(fields)


async def _body(request: Request, limit: int) -> bytearray:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            msg = f"The form is longer than {limit} bytes. Send a shorter payload."
            raise KvQueueError(msg)
    return body


async def _kept(request: Request) -> dict[str, list[str]]:
    try:
        form = await request.form()
    except (RuntimeError, AssertionError) as exc:
        # The latter without python-multipart, which it needs for a form that it has not kept.
        msg = (
            "A dependency of the dashboard has read the form and has not kept it. Have it read "
            "by `await request.form()` or `await request.body()`."
        )
        raise KvQueueError(msg) from exc
    fields: dict[str, list[str]] = defaultdict(list)
    for name, value in form.multi_items():
        if isinstance(value, str):
            fields[name].append(value)
    return fields


def number_of(text: str) -> int | None:
    """The message id that a text is; None: it is none."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _LONGEST_ID):
        return None
    return int(text)
