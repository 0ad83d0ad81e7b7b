"""`kvqueue send --file`: many messages, a slice in each commit."""

import asyncio
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final, NamedTuple

from kvqueue_fastapi.cli.exits import FailedError, WrongCommandError
from kvqueue_fastapi.cli.lines import Last, Line, LineError, checked, messages, opened
from kvqueue_fastapi.cli.output import Output, told
from kvqueue_fastapi.cli.progress import Advance, bar
from kvqueue_fastapi.cli.stores import Place, completed
from kvqueue_fastapi.cli.texts import counted
from kvqueue_fastapi.endings import to_the_end
from kvqueue_fastapi.errors import KvQueueError, QueueFullError, StoreError
from kvqueue_fastapi.queue import KvQueue

SLICE: Final = 1_000
"""Messages in one commit."""


class Sent(NamedTuple):
    """What was sent.

    Attributes:
        next_line: where to go on.
        sent: how many messages.
        first_id: of the first of them; None: nothing was.
        last_id: of the last of them; likewise.
    """

    next_line: int
    sent: int = 0
    first_id: int | None = None
    last_id: int | None = None

    def joined(self, lines: Sequence[Line], ids: Sequence[int]) -> "Sent":
        """With what stands in more lines, and their ids."""
        first = ids[0] if self.first_id is None else self.first_id
        return Sent(lines[-1].number + 1, self.sent + len(ids), first, ids[-1])

    @property
    def so_far(self) -> str:
        """How many went out, and how to send the others."""
        went = f"{counted(self.sent, 'message')} went out" if self.sent else "nothing was sent"
        return f"Before it, {went}. Go on with --from-line {self.next_line}."


def send_file(place: Place, path: str, from_line: int, output: Output, *, create: bool) -> None:
    """Send what stands in a file, from a line on, and tell of it.

    Raises:
        WrongCommandError: the file cannot be read, or has no such line.
        FailedError: a line is wrong, or cannot be sent; the text says what was.
    """
    with opened(path) as file:
        # All of them first, so that a mistake in the last one is told before any is sent.
        last = checked(file, place.runtime().settings)
        if from_line > max(last.line, 1):
            msg = (
                f"--from-line is {from_line}, the last message stands in line {last.line}. Give "
                "the number that the command said when it ended; if it was this, all is sent."
            )
            raise WrongCommandError(msg)
        file.seek(0)
        # What has been added to the file since is left, because nobody has checked it.
        lines = messages(islice(file, last.line))
        batch = Batch((line for line in lines if line.number >= from_line), from_line, last)
        completed(batch.send(place, output, create=create))


class Batch:
    """Messages on their way.

    Args:
        lines: what to send.
        from_line: where they begin.
        last: where they end.
    """

    def __init__(self, lines: Iterable[Line], from_line: int, last: Last) -> None:
        self._lines: Final = iter(lines)
        self._last: Final = last
        self._sent = Sent(from_line)

    async def send(self, place: Place, output: Output, *, create: bool) -> None:
        """Send all of them, and tell of it.

        Raises:
            FailedError: not all could be sent.
        """
        async with place.opened(create=create) as runtime:
            try:
                with bar("Send", self._last.messages) as advance:
                    await self._send_all(runtime.queue, advance)
            except asyncio.CancelledError:
                if self._is_over:
                    self._tell(output)
                elif self._sent.sent:
                    output.note(f"It was broken off. {self._sent.so_far}")
                raise
            if not self._is_over:
                msg = f"The file has become shorter while it was sent. {self._sent.so_far}"
                raise FailedError(msg)
            # At once, because what follows may be broken off.
            self._tell(output)

    @property
    def _is_over(self) -> bool:
        return self._sent.next_line > self._last.line

    async def _send_all(self, queue: KvQueue, advance: Advance) -> None:
        while part := self._part():
            sending = asyncio.create_task(_send_part(queue, part, self._sent))
            try:
                # To its end, because else nobody knew whether this part went out.
                await to_the_end(sending)
            finally:
                self._sent = sending.result()
            advance(self._sent.sent)

    def _part(self) -> list[Line]:
        try:
            return list(islice(self._lines, SLICE))
        except LineError as error:
            msg = f"The file has changed while it was sent. {error} {self._sent.so_far}"
            raise FailedError(msg) from error

    def _tell(self, output: Output) -> None:
        _, sent, first, last = self._sent
        ids = f", ids {first} to {last}" if sent else ""
        with told(f"{counted(sent, 'message')} went out{ids}", "Do not send the file again."):
            if output.as_json:
                output.record({"sent": sent, "first_id": first, "last_id": last})
            else:
                output.say(f"{counted(sent, 'message')} sent{ids}.")


async def _send_part(queue: KvQueue, part: Sequence[Line], sent: Sent) -> Sent:
    try:
        return sent.joined(part, await queue.send_messages([line.message for line in part]))
    except (StoreError, QueueFullError) as error:
        raise _ended(part[0], error, sent) from error
    except KvQueueError:
        # One of them is refused, and only one by one it is seen which.
        return await _send_singly(queue, part, sent)


async def _send_singly(queue: KvQueue, part: Sequence[Line], sent: Sent) -> Sent:
    for line in part:
        try:
            sent = sent.joined([line], await queue.send_messages([line.message]))
        except KvQueueError as error:
            raise _ended(line, error, sent) from error
    return sent


def _ended(line: Line, error: KvQueueError, sent: Sent) -> FailedError:
    return FailedError(f"Line {line.number}: {error} {sent._replace(next_line=line.number).so_far}")
