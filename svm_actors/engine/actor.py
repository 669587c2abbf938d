"""Actors: one mailbox, one loop, and a task of its own for every request.

An actor's loop only receives and spawns, so an actor is never a hidden global lock: what two
requests inside one actor may not do at once is excluded by the kernel's own lock.

The request's task is a child of the *calling* task (``p0.t0/munmap.3/invalidate.0``), so its id
does not depend on arrival order, and it carries the caller's thread: to the lock checker a call
through a mailbox is what a function call is to the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

import attrs

from svm_actors.engine.channel import Channel, Reply
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EngineError, KernelError
from svm_actors.engine.task import Task

T = TypeVar("T")


@attrs.frozen
class Message(Generic[T]):
    """Base of all messages; subclasses are named as verbs, ``T`` is the type of the answer."""


@attrs.frozen
class Request:
    """An envelope: who asks, what, and where the answer goes."""

    message: Message[Any]
    """What is asked for."""
    caller: Task
    """The task that waits for the answer."""
    reply: Reply[Any]
    """Where the answer goes."""


class Mailbox(Channel[Request]):
    """Where an actor's requests arrive.

    Their order decides nothing: the loop only starts a task for each.  A search knows a mailbox by its class.
    """

    __slots__ = ()


Handler = Callable[[Any], Coroutine[Any, Any, Any]]


class Actor:
    """Base class.  A subclass fills :attr:`handlers`: message type to coroutine method."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.mailbox = Mailbox(engine, f"{name}.mailbox")
        self.handlers: dict[type[Message[Any]], tuple[str, Handler]] = {}

    def handle(self, kind: type[Message[Any]], handler: Handler) -> None:
        """Serve messages of this type with this coroutine method."""
        self.handlers[kind] = (kind.__name__, handler)

    def start(self) -> None:
        """Spawn the loop."""
        self.engine.spawn(self._loop(), self.name, daemon=True)

    async def _loop(self) -> None:
        engine = self.engine
        while True:
            request = await self.mailbox.receive()
            verb, handler = self.handlers[type(request.message)]
            request.reply.server = engine.spawn(
                self._serve(request, handler), verb, parent=request.caller, thread=request.caller.thread
            )

    async def _serve(self, request: Request, handler: Handler) -> None:
        try:
            result = await handler(request.message)
        except KernelError as error:
            request.reply.fail(error)
        else:
            request.reply.set(result)

    async def call(self, message: Message[T]) -> T:
        """Send a message and wait for the answer; kernel errors are raised here."""
        engine = self.engine
        caller = engine.current
        assert caller is not None
        verb = type(message).__name__
        if type(message) not in self.handlers:
            raise EngineError(f"{self.name} has no handler for {verb}")
        reply: Reply[T] = Reply(engine, f"{self.name}.{verb}")
        await self.mailbox.send(Request(message, caller, reply), verb)
        return await reply.get()
