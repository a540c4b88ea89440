"""Workers that are threads of this process: the same engine, scheduler and worker loop, and nothing is pickled.

A thread reads the records that a worker process would read from the same pipe, and answers through the same pipe; what it runs
are the caller's own objects. A chunk says only which job's tasks it holds, and from which index on: tasks wait in the job's table
on the way to the thread, results on the way back.

A thread does not die alone and cannot be killed. So nothing here repairs deaths, a task's time limit ends the wait and not the
task, and the memory of the engine is given back after the last thread has left.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from . import _layout as L
from . import _worker
from . import error as _error
from ._blobs import Function
from ._call import Call
from ._engine import INIT, Engine, Port
from ._job import EVENT, Job
from ._payload import Encoded
from ._reply import Chunk
from ._results import AsyncResult
from ._runner import Runner, join_later
from ._start import Initializer

_MOMENT: Final = 1.0  # s


class _Failed:
    """Stands for a failed task's result."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Reply(Chunk):
    """The results of a chunk, as they are."""

    __slots__ = ("error", "values")

    def __init__(self, *place: Any) -> None:
        super().__init__(*place)
        self.values: list[Any] = []
        self.error: BaseException | None = None

    def put(self, values: list[Any]) -> None:
        """More results."""
        self.values += values
        self.done += len(values)

    def put_error(self, record: Any) -> None:
        """What the task behind the results raised."""
        self.error = record


class _Functions(_worker.Functions):
    """The job's own function: all threads share its state with the caller."""

    def __init__(self, channel: _worker.Channel, runner: ThreadRunner) -> None:
        super().__init__(channel)
        self.runner = runner

    def get(self, job: int, serial: int, at: int, flags: int) -> Any:
        """The function of a job."""
        return self.runner.jobs[job].call.func


class ThreadWorker(_worker.Worker):
    """The worker loop on a thread."""

    reply = _Reply
    describe = staticmethod(lambda error: error)
    failed = _Failed
    heap: Any

    def __init__(self, channel: _worker.Channel, runner: ThreadRunner) -> None:
        super().__init__(channel)
        self.runner = runner
        self.functions = _Functions(channel, runner)
        self.current: _Reply | None = None
        self.look = self._look

    def streams(self) -> list[Any]:
        """They are the caller's."""
        return []

    def _look(self) -> None:
        """Between two blocks of tasks: a terminated pool wants no more of this chunk."""
        if self.runner.dead and self.current is not None:
            L.WORD32.pack_into(self.arena, self.current.slot + L.REPLY_CANCEL, 1)

    def _read_and_run(self, done: Any, *rest: Any) -> int:
        self.current = done
        if done.job not in self.runner.jobs:
            return L.STOPPED  # given up just now
        if self.runner.before is not None:
            self.runner.before()
        return super()._read_and_run(done, *rest)

    def _tasks(self, slot: int, *_: Any) -> Any:
        done = self.current
        assert done is not None
        return self.runner.jobs[done.job].sent.pop(done.first)

    def _answer(self, done: Any, status: int, spent: int, generation: int, flags: int) -> None:
        self.current = None
        job = self.runner.jobs.get(done.job)
        if job is not None and (done.values or status == L.FAILED):
            job.answers[done.first] = done
        super()._answer(done, status, spent, generation, flags)

    def _park(self, job: int) -> None:
        pause = 50e-6
        while L.WORD.unpack_from(self.arena, L.CTL_GATE)[0] < job and not self.runner.dead:
            time.sleep(pause)
            pause = min(pause * 2, 5e-3)

    def running(self) -> tuple[int, int, int] | None:
        """Job and index of the task that runs, and when it began [ns]; None between two tasks."""
        done = self.current
        if done is None:
            return None
        started, running, block = L.RUNNING.unpack_from(self.arena, self.channel.cell + L.CELL_STARTED)
        return (done.job, done.first + running, started) if block and done is self.current else None


class ThreadStarter:
    """Starts worker threads."""

    prefix = "schwimmbad-go-worker"

    def __init__(self, runner: ThreadRunner, initializer: Initializer) -> None:
        self.runner = runner
        self.initializer = initializer

    def start(self, index: int) -> int:
        """Start worker `index`."""
        engine = self.runner.engine
        known = threading.Event()  # it must not leave before the engine knows that it is there
        # A daemon: a program whose pool was not closed must be able to end.
        args = (index, known)
        thread = threading.Thread(target=self._run, name=f"{self.prefix}-{index + 1}", args=args, daemon=True)
        thread.start()
        try:
            engine.attach(index, L.THREAD, False)
        except BaseException:  # Ctrl-C as well, raised on: the thread runs already, and must learn that the engine does not know it
            self.runner.refused.add(known)
            raise
        finally:
            known.set()
        return os.getpid()

    def exit_code(self, pid: int) -> int | None:
        """Threads have none."""
        return None

    def close(self) -> None:
        """Nothing to end."""

    def _run(self, index: int, known: threading.Event) -> None:
        runner = self.runner
        known.wait()
        if known in runner.refused:
            runner.refused.discard(known)
            return
        channel = _worker.Channel(index, runner.arena, runner.engine.worker_fds)
        channel.max_tasks = 0
        try:
            if self._initialize(channel):
                self._serve(channel)
        except BaseException as error:  # a fault of ours: callers must hear of it, not wait
            runner.end()
            threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread())))
        finally:
            runner.workers_now.pop(index, None)
            channel.control(L.LEFT)  # the last thing: from now on memory and descriptors may be gone

    def _initialize(self, channel: _worker.Channel) -> bool:
        if self.initializer.func is not None:
            try:
                self.initializer.func(*self.initializer.args)
            except BaseException as error:  # the user's code; the caller raises it
                _error.add_note(error, f"raised by the initializer in a thread of pid {os.getpid()}")
                self.runner.start_error = error
                channel.control(L.INIT_FAILED)
                return False
        return True

    def _serve(self, channel: _worker.Channel) -> None:
        runner = self.runner
        worker = runner.workers_now[channel.index] = ThreadWorker(channel, runner)
        channel.control(L.HELLO)
        read, work = os.read, channel.work
        while True:
            record = read(work, 8)  # the interpreter is free meanwhile
            if len(record) < 8 or runner.dead:
                return
            page, generation = L.RECORD.unpack(record)
            worker.run(page << L.PAGE_SHIFT, generation)


class ThreadJob(Job):
    """A call under way to threads."""

    __slots__ = ("answers", "limit", "sent")

    runner: ThreadRunner

    def __init__(self, runner: Runner, call: Call, port: Port, static: bool) -> None:
        super().__init__(runner, call, port, static)
        self.sent: dict[int, Any] = {}  # tasks of a chunk, by the index of the first
        self.answers: dict[int, _Reply] = {}
        self.limit = None if call.timeout is None else int(call.timeout * 1e9)

    def begin(self, job_flags: int = 0) -> None:
        """Tell the engine; the first offers are listed when this returns."""
        super().begin(job_flags)
        self.runner.jobs[self.id] = self

    def encode(self, k: int) -> bool:
        """Put the tasks of offer k where a thread finds them."""
        port, arena = self.port, self.runner.arena
        _, _, slot, _, first, count, tag, _ = EVENT.unpack_from(arena, port.at + 8 * (L.W_OFFER + L.OFFER_WORDS * k))
        tasks = self.source.take(first, count, bool(tag & 1))
        if len(tasks) < count:
            self.fewer(slot, len(tasks))
        self.sent[first] = tasks
        arena[slot + L.SLOT_FRAME + 6] = L.LOCAL
        return False

    def results(self, k: int) -> tuple[int, list[Any], BaseException | None]:
        """Event k as (index of the first result, results, error of the task behind them)."""
        _, _, first, count, _, flags, _, _ = EVENT.unpack_from(
            self.runner.arena, self.port.at + 8 * (L.W_EVENT + L.EVENT_WORDS * k)
        )
        done = self.answers.pop(first)
        values = done.values
        call = self.call
        for i, value in enumerate(values) if done.failing else ():
            if type(value) is _Failed:
                values[i] = _error_of(value.error, first + i)
                if call.failed is not None:
                    call.failed.add(first + i)
        error = None
        if flags & L.EVENT_FAILED:
            assert done.error is not None
            error = _error_of(done.error, first + count)
            if call.return_exceptions:
                values.append(error)
                if call.failed is not None:
                    call.failed.add(first + count)
                error = None
        self.source.forget(first, len(values))
        return first, values, error

    def turn(self, wait: int) -> int:
        """As for processes; a task above its limit ends the wait for it."""
        if self.limit is None:
            return super().turn(wait)
        before = self.call.deadline
        look = time.monotonic() + min(self.limit / 2e9, 0.1)
        self.call.deadline = look if before is None else min(before, look)
        try:
            found = super().turn(wait)
        finally:
            self.call.deadline = before
        self.runner.check_limit(self)
        return found


def _error_of(error: BaseException, index: int) -> BaseException:
    """A task's exception as the caller gets it: itself, but for the two that would end the caller."""
    where = f"task {index}, thread of pid {os.getpid()}"
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == _worker.__file__:
        trace = trace.tb_next
    error = error.with_traceback(trace)
    if isinstance(error, SystemExit) and not isinstance(error, _error.PoolError):
        exit_text = f"{where}: the task called sys.exit({error.code!r})"
        ours: BaseException = _error.TaskExit(exit_text, exit_code=error.code, index=index)
    elif isinstance(error, KeyboardInterrupt) and not isinstance(error, _error.PoolError):
        ours = _error.TaskInterrupt(f"{where}: the task raised KeyboardInterrupt", index=index)
    else:
        _error.add_note(error, where)
        return error
    ours.__cause__ = error
    return ours


class ThreadRunner(Runner):
    """Engine, threads and ports of one pool.

    Parameters
    ----------
    workers : int
    initializer : Initializer
        Runs once on each thread.
    before : callable, optional
        Called on a thread before each chunk.
    """

    job_type = ThreadJob

    def __init__(self, workers: int, initializer: Initializer, before: Callable[[], None] | None = None) -> None:
        self.before = before
        self.jobs: dict[int, ThreadJob] = {}
        self.workers_now: dict[int, ThreadWorker] = {}
        self.refused: set[threading.Event] = set()
        self.start_error: BaseException | None = None
        super().__init__(workers, "threads", initializer, 0)

    def _make_engine(self, method: str, initializer: Initializer, max_tasks: int) -> Engine:
        return Engine(self.workers, 0, None)

    def _start(self, method: str, initializer: Initializer) -> None:
        self.snapshot = None
        self.starter = ThreadStarter(self, initializer)
        for index in range(self.workers):
            self.starter.start(index)

    def encode_function(self, func: Any) -> Encoded | None:
        """Nothing is pickled."""
        return None

    def function(self, func: Any, encoded: Encoded | None) -> tuple[Function, bool, int]:
        """Threads find the function in the job."""
        return _NONE, False, self.time_key(func)

    def ended(self, job: int) -> None:
        """A job ended."""
        self.jobs.pop(job, None)
        super().ended(job)

    def raise_code(self, port: Port, code: int) -> None:
        """Turn a negative code into its exception."""
        error = self.start_error
        if code == INIT and error is not None:
            raise error  # kept: the record of a second thread's failure may come with the next call
        super().raise_code(port, code)

    def _give_up(self, job: Job, error: BaseException) -> None:
        """Whatever ended a job. After Ctrl-C, or a task that ran too long, its threads may never come back: another call gets new
        ones."""
        super()._give_up(job, error)
        if isinstance(error, (KeyboardInterrupt, _error.TaskTimeout)):
            self.stuck = True

    def busy(self) -> bool:
        """Whether a call is under way, or a task of one that was given up."""
        return super().busy() or any(worker.current is not None for worker in list(self.workers_now.values()))

    # ---- limits --------------------------------------------------------------------------------------------

    def collect(self, call: Call, job_flags: int = 0) -> list[Any]:
        """Run a call and return its results in input order."""
        _check_limit(call)
        return super().collect(call, job_flags)

    def stream(self, call: Call) -> Any:
        """Run a call and yield its results as they come."""
        _check_limit(call)
        return super().stream(call)

    def submit(self, call: Call, result: AsyncResult[Any]) -> None:
        """Run a call in the background."""
        if call.timeout is not None:
            _refuse_limit("in the background")
        super().submit(call, result)

    def check_limit(self, job: ThreadJob) -> None:
        """Raise TaskTimeout if a task of this job runs longer than it may. The thread goes on until the task ends."""
        now = time.monotonic_ns()
        assert job.limit is not None
        for worker in list(self.workers_now.values()):
            running = worker.running()
            if running is None:
                continue
            epoch, index, started = running
            if epoch == job.id and started and now - started > job.limit:
                limit = job.limit / 1e9
                raise _error.TaskTimeout(
                    f"task {index} runs longer than the limit of {limit:g} s per task. A thread cannot be ended: the task goes "
                    "on in the background, and its result is dropped. Worker processes are ended",
                    index=index, pid=os.getpid(), host=self.host_of(0), timeout=limit,
                )  # fmt: skip

    # ---- the end -------------------------------------------------------------------------------------------

    def end(self) -> None:
        """As `terminate`, from a thread of the pool: nobody waits for the others."""
        with self.lock:
            self.closed = self.dead = self.cut = True
            if not self.freed:
                self.engine.lib.swg_terminate(self.engine.handle)

    def shut_down(self) -> None:
        """At garbage collection and at exit: tasks that run are not waited for."""
        if self.owner == os.getpid() and not self.freed and not sys.is_finalizing():
            self.terminate()
            self.leave()

    def leave(self) -> None:
        """After `terminate`: wait for threads that run no task, leave the others to themselves."""
        thread = join_later(self)
        if thread is not None and not self.busy():
            thread.join(_MOMENT)  # one may just have begun a task that nobody has seen yet


_NONE: Final = Function(b"", [], 0, 0)


def _check_limit(call: Call) -> None:
    if call.timeout is None:
        return
    if call.return_exceptions or call.retries:
        _refuse_limit("and another task put in its place, or an error in place of its result")


def _refuse_limit(how: str) -> None:
    raise _error.PoolUnavailable(
        f"a limit per task {how} needs worker processes, which can be ended; threads cannot. Leave out timeout=, or take "
        'backend="loky"'
    )


__all__ = ["ThreadRunner"]
