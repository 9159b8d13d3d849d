"""Groups results that asyncio handlers submit at the same time: they go in one call of the session."""

from __future__ import annotations

import asyncio
from collections import deque

from broker.errors import TooBig
from broker.protocol.worker import Submission
from broker.worker.session import BYTES_PER_CALL, ITEMS_PER_CALL, Session, Submitted

_Waiting = tuple[Submission, "asyncio.Future[Submitted]"]


class GroupedSubmits:
    """Submits for one session. One call is under way at a time; results that come meanwhile go with the next one.

    Args:
        session: the session of the attempts.

    Attributes:
        sender: the task that sends, while there are results to send.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._waiting: deque[_Waiting] = deque()
        self.sender: asyncio.Task[None] | None = None

    async def submit(self, submission: Submission) -> Submitted:
        """Submits one result and waits for its answer. A cancelled call may still submit its result."""
        answer: asyncio.Future[Submitted] = asyncio.get_running_loop().create_future()
        self._waiting.append((submission, answer))
        if self.sender is None:
            self.sender = asyncio.create_task(self._send())
        return await answer

    async def _send(self) -> None:
        try:
            while piece := self._next_piece():
                await self._submit(piece)
        finally:
            self.sender = None

    async def _submit(self, piece: list[_Waiting]) -> None:
        try:
            answers, _ = await self._session.submit([submission for submission, _ in piece])
        except BaseException as error:
            if isinstance(error, TooBig) and len(piece) > 1:
                for one in piece:  # the server refused the whole call: sending each result alone finds the one at fault
                    await self._submit([one])
                return
            for _, answer in piece:
                if not answer.done():
                    answer.set_exception(error)
                    answer.exception()  # a cancelled caller does not look at it
            if not isinstance(error, Exception):
                raise
        else:
            for (_, answer), value in zip(piece, answers, strict=True):
                if not answer.done():
                    answer.set_result(value)

    def _next_piece(self) -> list[_Waiting]:
        piece: list[_Waiting] = []
        size = 0
        while self._waiting and len(piece) < ITEMS_PER_CALL and (not piece or size < BYTES_PER_CALL):
            piece.append(self._waiting.popleft())
            size += len(piece[-1][0].body)
        return piece
