"""Many jobs on one port: `Jobs`, for whichever thread turns them, and the background thread behind ``map_async`` and
``apply_async``, which is started by the first such call and gone with the pool."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from . import _layout as L
from . import error as _error
from ._call import Call
from ._job import Job

if TYPE_CHECKING:
    from ._runner import Runner


class Settled(Protocol):
    """Who waits for a job: an `AsyncResult`, or something like it. One of the two is called, once."""

    def _complete(self, values: list[Any]) -> None: ...

    def _fail(self, error: BaseException) -> None: ...


class Parts(Protocol):
    """Who wants the results of each task as they come."""

    def _part(self, first: int, values: list[Any]) -> None: ...

    def _fail_part(self, place: int, error: BaseException) -> None: ...

    def _fail(self, error: BaseException) -> None: ...


class Jobs:
    """Jobs of one pool under way on one port. Used by one thread at a time; `kick` may be called by any.

    Parameters
    ----------
    runner : Runner
    parts : bool
        Who waits for them are `Parts`. The other tasks of a job that failed are then ended, if need be with their workers.
    """

    def __init__(self, runner: Runner, parts: bool = False) -> None:
        self.runner = runner
        self.port = runner.acquire()
        self.parts = parts
        self.jobs: dict[int, tuple[Job, list[Any], Any]] = {}  # the last: Settled, or Parts

    def kick(self) -> None:
        """Wake the thread that waits in `turn`."""
        runner = self.runner
        with runner.lock:
            if not runner.freed:
                runner.engine.lib.swg_kick(self.port.handle)  # a closed port needs no waking

    def begin(self, call: Call, result: Any) -> None:
        """Start a job of `Settled`, or of `Parts` that has tasks; its first chunks are with the workers when this returns."""
        call.ordered = False
        try:
            job = self.runner.job_type(self.runner, call, self.port, False)
            if job.source.n == 0:
                result._complete([])
                return
            job.begin()
        except BaseException as error:  # of this call alone: its function does not pickle, say
            result._fail(error)
            return
        self.jobs[job.id] = job, [], result
        self.turn(L.WAIT_NONE)

    def turn(self, wait: int) -> None:
        """Encode all offers, look (or wait) once, take in what has come."""
        port, runner = self.port, self.runner
        words = port.words
        while True:
            offers = words[L.W_OFFERS]
            for k in range(offers):
                self._encode(k)
            found = port.step(port.handle, offers, wait)
            if found < 0:
                self._failed(found)
                return
            if found & L.FOUND_NEEDS:
                runner.start_workers(port)
            if found & L.FOUND_EVENTS:
                self._take_in(words[L.W_EVENTS])
            if not words[L.W_OFFERS]:
                return
            wait = L.WAIT_NONE

    def cancel(self, kill: bool) -> None:
        """Give all jobs up, unheard; with `kill` the workers that run their tasks are ended and replaced."""
        runner = self.runner
        while self.jobs:
            job, _ = self.jobs.popitem()
            if not runner.freed:
                runner.engine.lib.swg_cancel(self.port.handle, job, kill)  # it may be unknown by now: nothing is lost
            runner.ended(job)

    def release(self) -> None:
        """Give the port back. No job may be left."""
        self.runner.release(self.port)

    def fail_all(self, error: BaseException) -> None:
        """Tell everybody who waits."""
        for _, _, result in list(self.jobs.values()):
            result._fail(error)
        self.jobs.clear()

    def _encode(self, k: int) -> None:
        words = self.port.words
        entry = self.jobs.get(words[L.W_OFFER + L.OFFER_WORDS * k])
        if entry is None:
            return  # given up meanwhile: the engine drops the offer
        job, _, result = entry
        try:
            job.encode(k)
        except BaseException as error:  # of this job alone
            self._give_up(job, result, error)

    def _take_in(self, events: int) -> None:
        words = self.port.words
        for k in range(events):
            entry = self.jobs.get(words[L.W_EVENT + L.EVENT_WORDS * k])
            if entry is None:
                continue
            job, out, result = entry
            try:
                first, values, error = job.results(k)
            except BaseException as raised:
                self._give_up(job, result, raised)
                continue
            if error is not None and not self.parts:
                self._give_up(job, result, error)
                continue
            end = first + len(values)
            job.delivered += len(values)
            done = job.delivered == job.source.n
            if done:
                del self.jobs[job.id]
                self.runner.ended(job.id)
            if self.parts:
                if values:
                    result._part(first, values)
                if error is not None:
                    self._give_up(job, result, error, end)
                continue
            if end > len(out):
                out += [_MISSING] * (end - len(out))
            out[first:end] = values
            if done:
                result._complete(out)

    def _give_up(self, job: Job, result: Any, error: BaseException, place: int | None = None) -> None:
        """A job has failed; with `place` it was this task of it."""
        self.jobs.pop(job.id, None)
        self.runner.engine.lib.swg_cancel(self.port.handle, job.id, self.parts)  # it may be unknown by now: nothing is lost
        self.runner.ended(job.id)
        if place is None:
            result._fail(error)
        else:
            result._fail_part(place, error)

    def _failed(self, code: int) -> None:
        """The engine refused: every job of this port hears why. The next one tries anew."""
        try:
            self.runner.raise_code(self.port, code)
        except BaseException as error:
            for job, _, result in list(self.jobs.values()):
                self._give_up(job, result, error)


class Pump(threading.Thread):
    """Drives all background jobs of one pool."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(name="schwimmbad-go-pump", daemon=True)
        self.runner = runner
        self.work = Jobs(runner)
        self.queue: deque[tuple[Call, Settled]] = deque()
        self.closing = False
        self.gone = False

    def put(self, call: Call, result: Settled) -> None:
        """Hand over a call, from any thread."""
        self.queue.append((call, result))
        self.kick()
        if self.gone:  # it ended between our check and now
            self._fail_all(_error.PoolClosed())

    def busy(self) -> bool:
        """Whether there are calls that have not ended."""
        return bool(self.queue or self.work.jobs)

    def close(self) -> None:
        """End when all jobs have ended, or at once if the pool was terminated."""
        self.closing = True
        self.kick()

    def kick(self) -> None:
        """Wake the thread."""
        if not self.gone:
            self.work.kick()

    def run(self) -> None:
        """The thread."""
        try:
            self._loop()
            error: BaseException = _error.PoolClosed("the pool was terminated")
        except BaseException as raised:  # whatever it is, the callers who wait must hear of it
            error = raised
        self.gone = True
        self._fail_all(error)
        self.work.release()

    def _fail_all(self, error: BaseException) -> None:
        while self.queue:
            try:
                self.queue.popleft()[1]._fail(error)
            except IndexError:
                break
        self.work.fail_all(error)

    def _loop(self) -> None:
        runner, work = self.runner, self.work
        while not runner.dead:
            while self.queue:
                work.begin(*self.queue.popleft())
            if self.closing and not work.jobs:
                runner.close_engine()
                return
            work.turn(L.WAIT_KICK)


_MISSING = None
