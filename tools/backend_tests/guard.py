"""Call a function on many items in a child process, so that what crashes or hangs costs one item and not the run."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Generic, Literal, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Lost:
    """What became of an item that gave no result."""

    how: Literal["crash", "hang"]
    reason: str


class Guarded(Generic[Item, Result]):
    """`function` for each item, in order; a `Lost` for those that end the process or take too long."""

    def __init__(self, function: Callable[[Item], Result], seconds: float) -> None:
        self._function, self._seconds = function, seconds
        self._context = multiprocessing.get_context("fork")  # what was loaded before is there at once

    def __call__(self, items: Sequence[Item]) -> list[Result | Lost]:
        results: list[Result | Lost] = []
        while len(results) < len(items):
            results.extend(self._until_lost(items[len(results) :]))
        return results

    def _until_lost(self, items: Sequence[Item]) -> list[Result | Lost]:
        """The results up to the first item that is lost, which is the last one then."""
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=self._work, args=(items, sender))
        process.start()
        sender.close()
        results: list[Result | Lost] = []
        try:
            while len(results) < len(items):
                if not receiver.poll(self._seconds):
                    results.append(Lost("hang", f"it takes more than {self._seconds:g} s"))
                    break
                results.append(receiver.recv())
        except EOFError:
            process.join()
            results.append(Lost("crash", f"the process ended with code {process.exitcode}"))
        finally:
            process.kill()
            process.join()
            receiver.close()
        return results

    def _work(self, items: Sequence[Item], sender: Connection) -> None:
        for item in items:
            try:
                sender.send(self._function(item))
            except Exception as error:  # any exception here is what a user would see as a traceback
                sender.send(Lost("crash", f"{type(error).__name__}: {error}"))
