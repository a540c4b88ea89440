"""The batches of one ``joblib.Parallel`` under way on a pool.

joblib hands over batches of calls, one after the other, and asks for more whenever one is done. Each becomes a task of the engine, and
those that go out at the same moment one job.
Where joblib waits for results in the order of the batches, the thread that waits turns the engine itself; where results must go on
while nobody waits (generators), a thread does, on a port of its own.
"""

from __future__ import annotations

import gc
import itertools
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from . import _layout as L
from . import _payload
from ._call import PLAIN, Call
from ._joblib_arrays import BatchEncoder
from ._joblib_batch import Launch, Piece, Result, by_reference, name_calls, take_apart
from ._joblib_task import Batch
from ._pump import Jobs
from .error import PoolClosed, pool_timeout

if TYPE_CHECKING:
    from ._payload import Encoded
    from ._runner import Runner

# One batch costs the master some 50 us of joblib's own code, and its last one is what others wait for at the end.
TARGET: Final = 20e-3  # seconds of work in a batch
BUDGET: Final = 5 * TARGET  # after which a batch whose calls are longer than those before comes back
# A batch costs the master about as much as 100 tiny calls: with 8 workers 100 000 took it 63 ms with 175 to 256 calls in each, 67 with 88.
LEAST_MOST: Final = 175
MOST: Final = 2048  # calls; longer batches save nothing
# Batches that take less go out as one job. Longer ones do not: the job holds their arguments until the last is done.
BRIEF: Final = 1e-3  # seconds
_GROWTH: Final = 32  # from one batch size to the next: the first calls of a worker import what they need, and are slow
_MAX_FUNCTIONS: Final = 8

_groups = itertools.count(1)


class Session:
    """One Parallel object's use of a pool.

    Parameters
    ----------
    runner : Runner
    workers : int
        How many the pool has.
    n_jobs : int
        Batches that may run at once.
    nested : (joblib backend, int or None)
        For calls of joblib inside the tasks.
    threads : int or None
        See `Batch`.
    encoder : BatchEncoder
    background : bool
        A thread turns the engine.
    tell_failures : bool
        joblib wants its callback for failures, too.
    """

    def __init__(
        self, runner: Runner, workers: int, n_jobs: int, nested: tuple[Any, Any], threads: int | None, encoder: BatchEncoder,
        background: bool, tell_failures: bool,
    ) -> None:  # fmt: skip
        self.runner = runner
        self.nested = nested
        self.threads = threads
        self.encoder = encoder
        self.tell_failures = tell_failures
        # One more than can run for each worker, so that none waits for the master; but never more than were asked for.
        self.limit = n_jobs if n_jobs < workers else 2 * n_jobs
        self.n_jobs = n_jobs
        self.group = -next(_groups)
        self.begin()
        self.under_way = 0
        self.waiting: deque[Piece] = deque()
        self.functions: dict[Any, tuple[Batch, Encoded, bool]] = {}
        self.error: BaseException | None = None
        self.turning = False
        self.work = Jobs(runner, parts=True)
        self.driver = Driver(self) if background else None
        if self.driver is not None:
            self.driver.start()

    # ---- joblib's side -------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Another call of a Parallel object begins: its tasks are others, and are counted from 0."""
        self.auto = False
        self.size = 1
        self.most = most_calls(self.n_jobs)
        self.per_call = 0.0  # seconds, smoothed
        self.counted = 0  # calls in the batch that was looked at last
        self.submitted = 0
        if self.runner.blobs.shared:  # of the call before
            with self.runner.lock:
                self.runner.blobs.forget(self.group)

    def submit(self, items: list[Any], callback: Callable[[Any], Any] | None, single: bool = False) -> Result:
        """Take a batch."""
        result = Result(self, len(items), self.submitted, callback, single)
        self.submitted += len(items)
        # At once: the calls as joblib made them are let go. Python's garbage collector looks through what waits.
        self.waiting.append(Piece(result, 0, *take_apart(items)))
        if self.driver is not None:
            self.driver.wake()
        elif not self.turning:
            self.launch()
        return result

    def batch_size(self) -> int:
        """How many calls the next batch should have. Whoever asks wants batches that may be taken apart."""
        self.auto = True
        if self.per_call > 0:
            self.size = max(1, min(int(TARGET / self.per_call), _GROWTH * self.size, self.most))
        return self.size

    def wait(self, result: Result, timeout: float | None) -> None:
        """Until the batch is done, or anything has failed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if self.driver is not None:
            self.driver.wait(result, deadline, timeout)
            return
        while not (result.done or self.error is not None):
            if deadline is None:
                self.turn(L.WAIT_ANY)
            elif time.monotonic() < deadline:
                self.turn(self.runner.patience(L.WAIT_ANY, deadline))
            else:
                raise too_late(timeout)
        self._check(result)

    def _check(self, result: Result) -> None:
        if not result.done and self.error is not None:
            raise self.error

    def close(self, kill: bool) -> None:
        """No batch is wanted any more. With `kill` workers that run one are ended."""
        if self.driver is not None:
            self.driver.stop(kill)
        else:
            self.finish(kill)

    def finish(self, kill: bool) -> None:
        """Give back what this session has of the pool; on the thread that turns it."""
        runner = self.runner
        self.waiting.clear()
        self.work.cancel(kill)
        if not runner.freed:
            with runner.lock:
                runner.blobs.forget(self.group)
        self.work.release()

    # ---- the engine's side ---------------------------------------------------------------------------------

    def turn(self, wait: int) -> None:
        """Take in what has come; joblib's callbacks, and the code that makes the user's tasks, run here."""
        self.launch()
        self.turning = True
        try:
            self.work.turn(wait)
        finally:
            self.turning = False
        self.launch()
        if self.runner.dead and not self.error:
            self.error = PoolClosed("the pool was terminated")

    def launch(self) -> None:
        """Hand batches to the engine, as many as may be under way."""
        while self.waiting and self.under_way < self.limit:
            piece = self.waiting.popleft()
            batch, encoded, stateless = self._function(piece)
            pieces = [piece]
            if stateless:  # else each needs the function as it was: see `Call.stateless`
                self._join(pieces)
            self.under_way += len(pieces)
            call = Call(batch, [piece.task() for piece in pieces], PLAIN, 1)
            call.function, call.stateless, call.encoder, call.group = encoded, stateless, self.encoder, self.group
            self.turning = True
            try:
                self.work.begin(call, Launch(self, pieces))
            finally:
                self.turning = False

    def _join(self, pieces: list[Piece]) -> None:
        """Add what waits behind the first piece and can go out with it."""
        waiting, per_call, func = self.waiting, self.per_call, pieces[0].func
        room = self.limit - self.under_way
        while waiting and len(pieces) < room and waiting[0].func is func and 0 < per_call * len(waiting[0].calls) < BRIEF:
            pieces.append(waiting.popleft())

    def _function(self, piece: Piece) -> tuple[Batch, Encoded, bool]:
        """What the engine runs for a piece, its pickle, and whether that is made of references alone."""
        known = self.functions.get((piece.func, self.auto))
        if known is None:
            if len(self.functions) >= _MAX_FUNCTIONS:  # each batch has another one, it seems: it goes with them
                piece.carry()
                known = self.functions.get((None, self.auto))
            if known is None:
                func = piece.func
                batch = Batch(func, *self.nested, self.threads, BUDGET if self.auto else None)
                encoded = self.encoder.encode(batch, None, func or "the batch")
                known = batch, encoded, by_reference(func, encoded)
                self.functions[func, self.auto] = known
        return known

    def arrived(self, piece: Piece, seconds: float, kind: int, values: Any) -> None:
        """Results of a piece; fewer than it has calls if its budget was used up."""
        self.under_way -= 1
        if kind != L.PICKLE:
            values = _payload.decode(kind, memoryview(values), ())
        result, count = piece.result, len(values)
        each = max(seconds, 1e-9) / count
        # What comes once per batch, or once per worker, weighs less in a larger batch: that one is believed.
        self.per_call = each if count >= self.counted else 0.5 * (self.per_call + each)
        self.counted = count
        result.out[piece.start : piece.start + count] = values
        result.left -= count
        rest = piece.calls[count:]
        if rest:  # in small pieces, and before what came later
            size = max(1, min(int(TARGET / each), -(-len(rest) // self.n_jobs)))
            starts = range(0, len(rest), size)
            self.waiting.extendleft(
                Piece(result, piece.start + count + at, piece.func, piece.own, piece.form, rest[at : at + size]) for at in reversed(starts)
            )
        elif result.left == 0:
            result.done = True
            if result.callback is not None and self.error is None:
                result.callback(result)

    def failed(self, piece: Piece, error: BaseException, place: int = 0) -> None:
        """The batch has failed, and with it what joblib runs. It was task `place` of its job."""
        self.under_way -= 1
        result = piece.result
        if result.done:
            return
        name_calls(error, place, result.first + piece.start, len(piece.calls))
        result.done, result.error = True, error
        if self.error is None:
            self.error = error
        if result.callback is not None and self.tell_failures:
            result.callback(result)


class Driver(threading.Thread):
    """Turns a session while its user does something else."""

    def __init__(self, session: Session) -> None:
        super().__init__(name="schwimmbad-go-joblib", daemon=True)
        self.session = session
        self.news = threading.Condition()
        self.stopping = self.kill = self.gone = False

    def run(self) -> None:
        """The thread."""
        session = self.session
        try:
            while not self.stopping and not session.runner.dead:
                session.turn(L.WAIT_KICK)
                with self.news:
                    self.news.notify_all()
        except BaseException as error:  # whatever it is, who waits must hear of it
            session.error = session.error or error
        finally:
            session.error = session.error or PoolClosed("the pool was terminated")
            session.finish(self.kill)
            with self.news:
                self.gone = True
                self.news.notify_all()

    def wake(self) -> None:
        """There is something to do."""
        if threading.current_thread() is not self:
            self.session.work.kick()

    def wait(self, result: Result, deadline: float | None, timeout: float | None) -> None:
        """See `Session.wait`."""
        with self.news:
            while not (result.done or self.session.error is not None or self.gone):
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise too_late(timeout)
                self.news.wait(left)
        self.session._check(result)

    def stop(self, kill: bool) -> None:
        """End, and wait for that: nothing of it may stay behind."""
        self.kill = kill
        self.stopping = True
        self.wake()
        # Where a garbage collection got here while this thread has the pool's lock, the other one could not end. At the interpreter's
        # end it never runs again.
        if sys.is_finalizing():
            return
        if threading.current_thread() is not self and not self.session.runner.lock._is_owned():  # type: ignore[attr-defined]
            self.join()


def most_calls(n_jobs: int) -> int:
    """How many calls a batch may have.

    joblib draws n_jobs batches at once, and makes a dict and two tuples for each call. Where that starts Python's garbage collector (by
    default after 700 objects that stay; dicts, for tuples come from a free list), it looks through all calls that wait, again and again,
    and now and then through all there is: 10 ms each time. 100 000 tiny calls took it 48 ms with 2 batches of 350, 64 with 2 of 400.
    With the collector off, 46 ms with 2 of 350 and 37 with 2 of 2048.
    """
    drawn = gc.get_threshold()[0] if gc.isenabled() else 0
    return min(max(drawn // n_jobs, LEAST_MOST), MOST) if drawn else MOST


def too_late(timeout: float | None) -> BaseException:
    """The error for a batch that takes longer than joblib's timeout."""
    return pool_timeout(f"a batch of tasks took longer than the timeout of {timeout} s that joblib.Parallel was given")
