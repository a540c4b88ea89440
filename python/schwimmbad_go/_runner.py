"""One pool's engine, workers and ports: what its jobs share."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import types
from collections.abc import Generator, Mapping
from functools import partial
from typing import Any, Final

from . import _layout as L
from . import error as _error
from ._blobs import Blobs, Function
from ._call import Call
from ._engine import Engine, Port
from ._functions import Encoder, Snapshot
from ._job import Job, raise_start_failure
from ._payload import Encoded, encode_pickle
from ._pump import Pump
from ._recycle import Recycler
from ._results import AsyncResult
from ._served import ForkServerStarter
from ._start import ForkStarter, Initializer, spawn_command, write_setup

_MAX_KEYS: Final = 4096


class SpawnStarter:
    """Fresh interpreters, started and replaced by the engine itself."""

    prefix = "SpawnPoolWorker"

    def start(self, index: int) -> int:
        """The engine does it."""
        raise _error.EngineError("the engine starts spawned workers itself")

    def exit_code(self, pid: int) -> int | None:
        """The engine collects the status of its own children."""
        return None

    def close(self) -> None:
        """Nothing to end."""


class Runner:
    """Engine, workers and ports of one pool.

    Parameters
    ----------
    workers : int
    method : str
        ``fork``, ``forkserver`` or ``spawn``.
    initializer : Initializer
    max_tasks : int
        A worker is replaced after so many tasks; 0: never.
    environ : mapping, optional
        Variables of workers from a fork server, besides the inherited ones.
    """

    job_type: type[Job] = Job

    def __init__(
        self, workers: int, method: str, initializer: Initializer, max_tasks: int, environ: Mapping[str, str] | None = None
    ) -> None:
        self.environ = environ
        self.workers = workers
        self.lock = threading.RLock()  # reentrant: a garbage collection under it may end an abandoned stream
        self.starting = threading.Lock()  # of the background thread
        self.broadcasting = threading.Lock()
        self.owner = os.getpid()
        self.ports: list[Port] = []
        self.joiners = 0
        self.opened = 0  # while some of them are in use, the arena must stay
        self.closed = self.dead = self.joined = self.freed = False
        self.cut = False  # terminated
        self.stuck = False  # workers may be held by tasks that nobody waits for
        self.pump: Pump | None = None
        self.keys: dict[Any, int] = {}
        self.plain: dict[int, tuple[Any, Function, int]] = {}  # functions that are plain references, by id
        self.streams: dict[int, Call] = {}  # under way, each driven by whoever takes its results
        self.sends_in_place = False
        self.limbo: list[Any] = []  # buffers of jobs that were given up, which MPI may still read
        self.recycler = Recycler()
        self.engine = self._make_engine(method, initializer, max_tasks)
        self.arena = self.engine.arena
        self.blobs = Blobs(self.engine)
        try:
            self._start(method, initializer)
        except BaseException:  # a failed start or Ctrl-C in it: no worker may stay behind
            self.terminate()
            self.join()
            raise

    def _make_engine(self, method: str, initializer: Initializer, max_tasks: int) -> Engine:
        return Engine(self.workers, max_tasks, spawn_command() if method == "spawn" else None)

    def host_of(self, rank: int) -> str:
        """Where an MPI rank runs; other pools have none."""
        return socket.gethostname()

    def _start(self, method: str, initializer: Initializer) -> None:
        engine = self.engine
        self.snapshot = Snapshot() if method == "fork" else None
        self.encoder = Encoder(self.snapshot)
        self.starter: Any
        if method == "fork":
            self.starter = ForkStarter(engine, initializer)
            self.starter.start(*range(self.workers))
            return
        pair = (initializer.func, initializer.args)
        data = self.encoder.encode(pair, partial(in_band), "the initializer")[1]
        prefix = SpawnStarter.prefix if method == "spawn" else ForkServerStarter.prefix
        write_setup(engine, prefix, bytes(data))
        if method == "spawn" and not engine.starts:
            from . import _children

            self.starter = _children.SpawnStarter(engine, spawn_command())
        elif method == "spawn":
            self.starter = SpawnStarter()
            engine.check(engine.lib.swg_start(engine.handle))
            return
        else:
            self.starter = ForkServerStarter(engine, self.environ)
        for index in range(self.workers):
            self.starter.start(index)

    # ---- ports ---------------------------------------------------------------------------------------------

    def acquire(self) -> Port:
        """A port for the calling thread.

        A signal handler may raise after any call made here. No port is lost by it: the memory of a pool is given back when all are there.
        """
        port: Port | None = None
        try:
            with self.lock:
                if self.freed:
                    raise _error.PoolClosed("the pool was terminated")
                if self.ports:
                    port = self.ports[-1]  # not pop(), which could be cut off with the port in nobody's hands
                    del self.ports[-1]
                else:
                    port = self.engine.open_port()
                    self.opened += 1
            self.check_alive()
            if not port.settled:
                port.renew()
            port.settled = False
            return port
        except BaseException:  # a signal handler's too; raised on: a lost port would keep the pool from being freed
            if port is not None:
                self.release(port)
            raise

    def settle(self) -> None:
        """End what calls that were cut off have left in ports that nobody uses: the engine would wait for it. Under the lock."""
        for port in self.ports:
            if not port.settled:
                port.renew()

    def release(self, port: Port) -> None:
        """Give a port back."""
        self.ports.append(port)
        if self.joined and self.owner == os.getpid():
            self.free_if_unused()

    def free_if_unused(self) -> None:
        """Give memory and descriptors back once no thread uses a port any more."""
        with self.lock:
            if len(self.ports) == self.opened and self.joiners == 0:
                self.free()

    def check_alive(self) -> None:
        """Raise if the pool was terminated while user code ran. After a join there is nothing to come but what has come."""
        if self.dead and not self.joined or self.cut:
            raise _error.PoolClosed("the pool was terminated")

    # ---- functions -----------------------------------------------------------------------------------------

    def encode_function(self, func: Any) -> Encoded | None:
        """The function pickled; None for a plain reference that is stored. Runs user code, so not under the lock."""
        known = self.plain.get(id(func))
        if known is not None and known[0] is func and known[1].stored:
            return None
        return self.encoder.encode(func, encode_pickle, func)

    def function(self, func: Any, encoded: Encoded | None) -> tuple[Function, bool, int]:
        """The stored function, whether it is a plain reference without state, and its key in the table of task times. Under
        the lock."""
        if encoded is None:
            known = self.plain.get(id(func))
            if known is not None and known[1].stored:
                return known[1], True, known[2]
            encoded = self.encoder.encode(func, encode_pickle, func)  # dropped just now
        stored = self.blobs.function(encoded)
        key = self.time_key(func)
        if type(func) is types.FunctionType and self.encoder.is_reference(func, encoded[1]):
            if len(self.plain) >= 256:
                self.plain.clear()
            self.plain[id(func)] = func, stored, key
            return stored, True, key
        return stored, False, key

    def store(self, encoded: Encoded) -> Function:
        """Put an encoded function into shared memory unless it is there."""
        with self.lock:
            return self.blobs.function(encoded)

    def time_key(self, func: Any) -> int:
        """A small number under which the engine remembers how long tasks of this function take."""
        while type(func) is partial:
            func = func.func
        func = getattr(func, "__func__", func)
        key = getattr(func, "__code__", None) or type(func)
        if isinstance(func, types.BuiltinFunctionType):
            key = func
        number = self.keys.get(key)
        if number is None:
            if len(self.keys) >= _MAX_KEYS:
                self.keys.clear()
            number = self.keys[key] = len(self.keys) + 1
        return number

    def ended(self, job: int) -> None:
        """A job ended."""
        if self.blobs.retired:
            with self.lock:
                self.blobs.ended(job)
        else:
            self.blobs.active.discard(job)

    # ---- workers -------------------------------------------------------------------------------------------

    def start_workers(self, port: Port) -> None:
        """Start the workers that the engine asks this thread for."""
        words = port.words
        needs = [words[L.W_NEED + i] for i in range(words[L.W_NEEDS])]
        engine = self.engine
        for k, index in enumerate(needs):
            try:
                if self.snapshot is not None:
                    self.snapshot.again()
                    self.plain.clear()
                self.starter.start(index)
            except _error.PoolClosed:  # the last job has ended meanwhile, and the pool with it: the place stays empty
                continue
            except BaseException:  # whatever kept this thread from it: the places go to another caller
                for missed in needs[k:]:
                    engine.attach(missed, 0, False)
                raise

    def raise_code(self, port: Port, code: int) -> None:
        """Turn a negative code into its exception."""
        text = self.engine.lib.swg_last_error().decode(errors="replace")
        if not self.freed:
            raise_start_failure(self, port, code, text)
        self.engine.check(code)

    @staticmethod
    def overdue(deadline: float) -> bool:
        """Whether a deadline of ``time.monotonic()`` has passed."""
        return time.monotonic() >= deadline

    @staticmethod
    def patience(wait: int, deadline: float) -> int:
        """The wait argument of a step that must end at a deadline."""
        left = deadline - time.monotonic()
        if left <= 0:
            return L.WAIT_NONE
        return wait | min(int(left * 1000) + 1, 100) << 8

    # ---- running -------------------------------------------------------------------------------------------

    def _give_up(self, job: Job, error: BaseException) -> None:
        """Whatever ended a job: nothing of it stays behind. After Ctrl-C its workers are ended: nobody waits for their tasks."""
        if job.id > 0 and not self.freed and self.owner == os.getpid():
            kill = isinstance(error, KeyboardInterrupt) and not isinstance(error, _error.PoolError)
            self.engine.lib.swg_cancel(job.port.handle, job.id, kill)  # it may be unknown by now: nothing is lost
            job.port.settled = True

    def _open(self, call: Call, static: bool) -> Job:
        """A job on a port of its own."""
        port = self.acquire()
        try:
            return self.job_type(self, call, port, static)
        except BaseException:  # the tasks' own __iter__ raised: the port must not be lost with it
            self.release(port)
            raise

    def _close(self, job: Job) -> None:
        self.ended(job.id)
        if job.held:
            self.limbo.append(job.held)
        if self.limbo and not self.freed and self.engine.lib.swg_unsent(self.engine.handle) == 0:
            self.limbo.clear()
        if self.joined and self.owner == os.getpid():
            self.free_if_unused()

    def collect(self, call: Call, job_flags: int = 0) -> list[Any]:
        """Run a call and return its results in input order."""
        call.ordered = False
        job = self._open(call, True)
        try:
            if job.source.n == 0:
                return []
            job.begin(job_flags)
            results = job.collect()
            job.port.settled = True
            return results
        except BaseException as error:
            self._give_up(job, error)
            raise
        finally:
            self.ports.append(job.port)  # first and in one step, see `acquire`
            self._close(job)

    def stream(self, call: Call) -> Generator[tuple[int, list[Any]], None, None]:
        """Run a call and yield its results as they come."""
        job = self._open(call, False)
        try:
            if job.source.n == 0:
                return
            job.begin()
            self.streams[job.id] = call
            yield from job.stream()
            job.port.settled = True
        except BaseException as error:
            self._give_up(job, error)
            raise
        finally:
            self.ports.append(job.port)  # first and in one step, see `acquire`
            self.streams.pop(job.id, None)
            self._close(job)

    def broadcast(self, call: Call) -> list[Any]:
        """Run a call of one task per worker, each on another worker."""
        # One at a time: with two under way a worker parked for one could be the last that the other waits for.
        with self.broadcasting:
            return self.collect(call, L.JOB_BROADCAST)

    def submit(self, call: Call, result: AsyncResult[Any]) -> None:
        """Run a call in the background."""
        if self.closed or self.dead:
            raise _error.PoolClosed()
        with self.starting:
            if self.pump is None or not self.pump.is_alive():
                self.pump = Pump(self)
                self.pump.start()
            pump = self.pump
        pump.put(call, result)

    # ---- the end -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """No new work; the workers leave after what is under way."""
        with self.lock:
            if self.closed:
                return
            self.closed = True
            pump = self.pump
        if pump is not None and pump.is_alive():
            pump.close()
        else:
            self.close_engine()

    def close_engine(self) -> None:
        """Let the workers leave."""
        with self.lock:
            if not self.freed:
                self.settle()
                self.engine.check(self.engine.lib.swg_close(self.engine.handle))

    def terminate(self) -> None:
        """End the workers now."""
        with self.lock:
            self.closed = self.dead = self.cut = True
            pump = self.pump
            if not self.freed:
                self.engine.check(self.engine.lib.swg_terminate(self.engine.handle))
        if pump is not None:
            pump.close()

    def busy(self) -> bool:
        """Whether a call is under way, or waits to be."""
        with self.lock:
            used, pump = self.opened - len(self.ports), self.pump
            if pump is not None and pump.is_alive():
                used -= 1
                if pump.busy():
                    return True
            return used > 0

    def join(self, deadline: float | None = None) -> None:
        """Wait until the workers have left, then give everything back. Past the deadline, a value of ``time.monotonic()``, it gives
        up waiting."""
        engine = self.engine
        with self.lock:
            if self.freed:
                return
            self.joiners += 1  # the engine stays until the last of us is out
        try:
            self._finish_streams()
            while engine.check(engine.lib.swg_join(engine.handle, 100)) != 0:
                self._finish_streams()  # one that was being created then
                if deadline is not None and self.overdue(deadline):
                    break
                with self.lock:
                    self.settle()
        finally:
            with self.lock:
                self.joiners -= 1
        self._close_starter()
        pump = self.pump
        if pump is not None and pump is not threading.current_thread():
            pump.close()
            pump.join()
        self.dead = self.joined = True
        self.free_if_unused()

    def _finish_streams(self) -> None:
        """Take in the results of iterators that nobody uses up: as long as their tasks are not done, the workers stay."""
        for call in () if self.cut else list(self.streams.values()):
            consumer = call.consumer and call.consumer()
            if consumer is not None:
                consumer.finish()

    def _close_starter(self) -> None:
        starter = getattr(self, "starter", None)
        if starter is not None:
            starter.close()

    def shut_down(self) -> None:
        """The net under a pool that nobody closed: at garbage collection and at exit."""
        if self.owner != os.getpid() or self.freed or sys.is_finalizing():
            return  # at the end of this process the workers end by themselves: their lifeline
        self.terminate()
        self.join()

    def leave(self) -> None:
        """After `terminate`: wait for the workers, which have been killed."""
        self.join()

    def free(self) -> None:
        """Give back memory and descriptors; nobody uses them any more. Under the lock."""
        if self.freed:
            return
        self.freed = True
        self.ports.clear()
        self.blobs.latest = None
        self.blobs.functions.clear()
        self.plain.clear()
        self.recycler.close()
        self.engine.free()


def in_band(obj: Any) -> Encoded:
    import pickle

    return 0, pickle.dumps(obj, 5), []


def shut_down(runner: Runner) -> None:
    """Of a finalizer: end what a pool that is gone has left."""
    runner.shut_down()


def join_later(runner: Runner) -> threading.Thread | None:
    """Give back what the workers used once the last one has left, without waiting for it.

    Returns
    -------
    Thread or None
        Ends when it is done. None at the end of the interpreter, which starts no threads any more.
    """
    thread = threading.Thread(target=runner.join, name="schwimmbad-go-leaving", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread
