"""The batches of one ``joblib.Parallel`` under way on a pool.

joblib hands over batches of calls, one after the other, and asks for more whenever one is done. Each becomes a job of the engine.
Where joblib waits for results in the order of the batches, the thread that waits turns the engine itself; where results must go on
while nobody waits (generators), a thread does, on a port of its own.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
import types
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from . import _layout as L
from ._call import PLAIN, Call
from ._joblib_arrays import BatchEncoder
from ._joblib_task import ARGS, SINGLE, WHOLE, Batch
from ._pump import Jobs
from .error import EngineError, PoolClosed, WorkerLost, pool_timeout

if TYPE_CHECKING:
    from ._payload import Encoded
    from ._runner import Runner

# One batch costs the master some 50 us of joblib's own code, and its last one is what others wait for at the end.
TARGET: Final = 20e-3  # seconds of work in a batch
BUDGET: Final = 5 * TARGET  # after which a batch whose calls are longer than those before comes back
# Calls: three objects each, which Python's garbage collector looks through again and again while they wait. 100 000 tiny calls took the
# master 0.09 s with batches of 256 or 512, 0.12 with 1024, 0.23 with 16384.
MAX_BATCH: Final = 512
_GROWTH: Final = 32  # from one batch size to the next: the first calls of a worker import what they need, and are slow
_MAX_FUNCTIONS: Final = 8
_IMMUTABLE: Final = (int, float, complex, bool, str, bytes, type(None))

_groups = itertools.count(1)


class Result:
    """What ``submit`` returns: a batch whose results will be there.

    Parameters
    ----------
    session : Session
    items : list
        Calls, as (func, args, kwargs).
    first : int
        Number of calls in the batches before.
    callback : callable or None
        Called with this object when the batch is done; when it failed, only if the session says so.
    """

    __slots__ = ("callback", "done", "error", "first", "left", "out", "session", "single")

    def __init__(self, session: Session, size: int, first: int, callback: Callable[[Any], Any] | None, single: bool) -> None:
        self.session = session
        self.first = first
        self.callback = callback
        self.single = single
        self.out: list[Any] = [None] * size
        self.left = size
        self.done = False
        self.error: BaseException | None = None

    def get(self, timeout: float | None = None) -> Any:
        """The results; raises what a call raised, of this batch or of another one that is under way.

        Parameters
        ----------
        timeout : float, optional
            [s]

        Raises
        ------
        PoolTimeout
            It takes longer. A ``multiprocessing.TimeoutError`` as well.
        """
        self.session.wait(self, timeout)
        return self.value()

    def value(self) -> Any:
        """The results, which are there; or raises."""
        if self.error is not None:
            raise self.error
        return self.out[0] if self.single else self.out


class _Piece:
    """Calls of a batch as one task of the engine; what a `Jobs` tells when it ends.

    Parameters
    ----------
    session : Session
    result : Result
    start : int
        Place of the first call in the batch.
    calls : list
        In the form WHOLE until the piece goes out; see `Batch`.
    """

    __slots__ = ("calls", "form", "func", "result", "session", "start")

    def __init__(
        self, session: Session, result: Result, start: int, calls: list[Any], func: Any = None, form: int | None = None
    ) -> None:
        self.session = session
        self.result = result
        self.start = start
        self.calls = calls
        self.func = func
        self.form = form

    def task(self) -> tuple[int, list[Any]]:
        """What is sent. The calls as joblib made them are let go: Python's garbage collector looks through what waits."""
        if self.form is None:
            self.func, self.form, self.calls = _shared_function(self.calls)
        return self.form, self.calls

    def _complete(self, values: list[Any]) -> None:
        self.session.arrived(self, *values[0])

    def _fail(self, error: BaseException) -> None:
        self.session.failed(self, error)


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
        self.waiting: deque[_Piece] = deque()
        self.functions: dict[Any, tuple[Batch, Encoded]] = {}
        self.error: BaseException | None = None
        self.turning = False
        self.work = Jobs(runner)
        self.driver = Driver(self) if background else None
        if self.driver is not None:
            self.driver.start()

    # ---- joblib's side -------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Another call of a Parallel object begins: its tasks are others, and are counted from 0."""
        self.auto = False
        self.size = 1
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
        self.waiting.append(_Piece(self, result, 0, items))
        if self.driver is not None:
            self.driver.wake()
        elif not self.turning:
            self.launch()
        return result

    def batch_size(self) -> int:
        """How many calls the next batch should have. Whoever asks wants batches that may be taken apart."""
        self.auto = True
        if self.per_call > 0:
            self.size = max(1, min(int(TARGET / self.per_call), _GROWTH * self.size, MAX_BATCH))
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
            self.under_way += 1
            batch, encoded = self._function(piece)
            call = Call(batch, [piece.task()], PLAIN, 1)
            call.function, call.encoder, call.group = encoded, self.encoder, self.group
            self.turning = True
            try:
                self.work.begin(call, piece)
            finally:
                self.turning = False

    def _function(self, piece: _Piece) -> tuple[Batch, Encoded]:
        if piece.form is None and len(self.functions) >= _MAX_FUNCTIONS:
            piece.form = WHOLE  # each batch has another one, it seems: they go with the calls
        piece.task()
        func = piece.func
        known = self.functions.get((func, self.auto))
        if known is None:
            batch = Batch(func, *self.nested, self.threads, BUDGET if self.auto else None)
            known = batch, self.encoder.encode(batch, None, func or "the batch")
            self.functions[func, self.auto] = known
        return known

    def arrived(self, piece: _Piece, seconds: float, values: list[Any]) -> None:
        """Results of a piece; fewer than it has calls if its budget was used up."""
        self.under_way -= 1
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
                _Piece(self, result, piece.start + count + at, rest[at : at + size], piece.func, piece.form) for at in reversed(starts)
            )
        elif result.left == 0:
            result.done = True
            if result.callback is not None and self.error is None:
                result.callback(result)

    def failed(self, piece: _Piece, error: BaseException) -> None:
        """The batch has failed, and with it what joblib runs."""
        self.under_way -= 1
        result = piece.result
        if result.done:
            return
        _place(error, result.first + piece.start, len(piece.calls))
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


def too_late(timeout: float | None) -> BaseException:
    """The error for a batch that takes longer than joblib's timeout."""
    return pool_timeout(f"a batch of tasks took longer than the timeout of {timeout} s that joblib.Parallel was given")


def _shared_function(items: list[Any]) -> tuple[Any, int, list[Any]]:
    """The function of all calls, the form of the calls without it (see `Batch`), and the calls.

    The function goes beside them only if it is a plain one without state of its own, and no call has keywords; else it is None.
    Anything that may hold state goes with its batch: a worker's calls of later batches must not see what it was changed to. In the
    form SINGLE tiny calls take a tenth of the time to pickle.
    """
    func = items[0][0]
    if type(func) is types.FunctionType:
        defaults = func.__defaults__ or ()
        plain = func.__closure__ is None and not func.__dict__ and not func.__kwdefaults__
        plain = plain and all(isinstance(v, _IMMUTABLE) for v in defaults)
    else:
        plain = type(func) is types.BuiltinFunctionType and type(func.__self__) is types.ModuleType
    if not plain:
        return None, WHOLE, items
    funcs, args, keywords = zip(*items, strict=True)
    if len(set(map(id, funcs))) > 1 or any(keywords):
        return None, WHOLE, items
    if set(map(len, args)) == {1}:
        return func, SINGLE, list(itertools.chain.from_iterable(args))
    return func, ARGS, list(args)


def _place(error: BaseException, first: int, count: int) -> None:
    """An engine's task is a batch: say which calls of the user's it was."""
    if getattr(error, "index", None) is not None and not isinstance(error, EngineError):
        error.index = first  # type: ignore[attr-defined]
    if isinstance(error, WorkerLost) and count >= 1:
        which = f"task {first}" if count == 1 else f"one of the tasks {first} to {first + count - 1}"
        text = str(error).replace("task 0 was lost", f"{which} was lost", 1)
        text = text.replace("; retries=1 runs such a task once more", "")
        error.args = (text.replace(" and other tasks are not affected", ""), *error.args[1:])
