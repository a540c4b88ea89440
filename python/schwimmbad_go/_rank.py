"""What the ranks other than 0 do inside `MPIPool()`: serve the master's pools.

The tasks run here, in the rank's own process and main thread, so that they may use MPI themselves; or, in worker processes that were
forked before MPI was started, so that a crash of theirs costs one task.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import posix
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from . import _engine, _errors, _payload, _worker
from . import _layout as L
from ._ranks import Link
from ._reply import Heap
from ._start import Initializer


class RankChannel(_worker.Channel):
    """Connects the worker in this process to the rank's own end of the pool."""

    def __init__(self, rank: _engine.Rank) -> None:
        super().__init__(0, rank.arena, rank.worker_fds)
        self.rank = rank
        self.max_tasks = 0  # this process cannot be replaced
        self.told = 0

    def tell(self, slot: int, generation: int) -> None:
        """The reply in a slot is complete; it goes out with the question what is next, which saves a call."""
        self.told = slot

    def look(self) -> None:
        """Take in what has come: the running chunk may have been given up."""
        self.rank.check(self.rank.lib.swg_rank_look(self.rank.handle))


class Seat:
    """The place of a rank among the workers of rank 0's machine: it works from rank 0's arena, on the queue that all of them share.

    Parameters
    ----------
    rank : Rank
        Whose forked children must not keep the descriptors.
    desk : Desk
        The descriptors, which are ours from now on.
    """

    def __init__(self, rank: _engine.Rank, desk: _engine.Desk) -> None:
        self.rank = rank
        self.fds = [desk.work, desk.answer, desk.memory]
        for fd in self.fds:
            rank.add_master_fd(fd)
        try:
            arena = _worker.map_arena(desk.memory)
            channel = _worker.Channel(desk.index, arena, (desk.work, desk.answer, -1, desk.memory))
            channel.max_tasks = 0  # this process cannot be replaced
            self.worker = _worker.Worker(channel)
            self.worker.limits = True
        except BaseException:  # a signal handler's too; raised on: the descriptors are ours to close
            self._close()
            raise

    def serve(self) -> None:
        """Until the pool ends."""
        try:
            _worker.work_off(self.worker)
        finally:
            del self.worker
            self._close()

    def _close(self) -> None:
        for fd in self.fds:
            self.rank.drop_master_fd(fd)
            os.close(fd)


class Server:
    """One rank at work.

    Parameters
    ----------
    link : Link
    initializer : Initializer
        For the first pool; later ones bring theirs.
    max_tasks : int
        A worker process is replaced after so many; 0: never.
    """

    def __init__(self, link: Link, initializer: Initializer, max_tasks: int) -> None:
        self.initializer = initializer
        if link.zygote is not None and link.workers == 0:  # rank 0 alone has worker processes
            link.zygote.close()
            link.zygote = None
        self.zygote = zygote = link.zygote
        self.rank = _engine.Rank(link.job.lib, link.handle, link.workers, max_tasks)
        _errors.rank, _errors.host = link.rank, socket.gethostname()
        self.channel = RankChannel(self.rank)
        self.worker = _worker.Worker(self.channel)
        if zygote is None:
            self.worker.look = self.channel.look
            self.worker.limits = True
            return
        zygote.connect(self.rank)
        zygote.ask(b"R", link.rank)
        self.rank.check(self.rank.lib.swg_rank_server(self.rank.handle, zygote.socket.fileno()))
        for index in range(link.workers):
            zygote.start(index)

    def serve(self) -> None:
        """Until the master's program ends."""
        rank, worker, arena = self.rank, self.worker, self.rank.arena
        following, handle, run, generation = rank.lib.swg_rank_next, rank.handle, worker.run, L.WORD32.unpack_from
        channel = self.channel
        while True:
            found = following(handle, channel.told)
            channel.told = 0
            what, at = found & 15, found >> 4
            if what == L.RANK_CHUNK:
                run(at, generation(arena, at + L.SLOT_FRAME + 28)[0])
            elif found < 0:
                rank.check(found)
            elif what == L.RANK_OPEN:
                self.open(at)
            elif what == L.RANK_EXIT:
                break
            elif what == L.RANK_NEEDS:
                assert self.zygote is not None
                self.zygote.start(at)
        rank.free()

    def open(self, setup: int) -> None:
        """A pool begins."""
        rank, seat = self.rank, None
        self.worker.functions = _worker.Functions(self.channel)
        if self.zygote is None:
            self.worker.heap = Heap(self.channel)
            try:
                initializer = self.initializer
                if setup:
                    initializer = Initializer(*pickle.loads(self.channel.setup() or b"N."))
                if initializer.func is not None:
                    initializer.func(*initializer.args)
            except BaseException as error:  # the user's code; the master raises what it raised
                self.refuse(error)
                return
            seat = self._sit()  # a failure of this is none of the initializer's: the job ends, and says why
        rank.check(rank.lib.swg_rank_hello(rank.handle))
        if seat is not None:
            seat.serve()

    def _sit(self) -> Seat | None:
        """Take the place that the pool has for this rank on rank 0's machine, if it has one."""
        desk = _engine.Desk()
        return Seat(self.rank, desk) if self.rank.check(self.rank.lib.swg_rank_desk(self.rank.handle, desk)) else None

    def refuse(self, error: BaseException) -> None:
        """Tell the master that this rank cannot work."""
        rank = self.rank
        _, data, _ = _payload.encode_pickle(tuple(_errors.make_record(error)))
        at = Heap(self.channel).take(L.FRAME_SIZE + len(data)) + L.HEAP_HEAD
        L.FRAME.pack_into(rank.arena, at, L.MAGIC, L.TYPE_RESULTS, L.ERROR, 0, 0, 0, 0, 0, 1, 0, len(data), 0, 0, 0, 0, 0)
        rank.arena[at + L.FRAME_SIZE : at + L.FRAME_SIZE + len(data)] = data
        rank.check(rank.lib.swg_rank_refuse(rank.handle, _engine.INIT, b"the initializer failed", at))


def guard_exit(rank: int) -> Callable[[int], NoReturn]:
    """Make ``os._exit`` of this process a failure that says so, and return the real one.

    A rank that ends in the middle of a job takes the job along. To hydra it looks like a good end if the code is 0, and the whole job
    may then end with 0, results missing; with another code hydra ends the others without a word.
    """
    real, owner = os._exit, os.getpid()

    def leave(status: int) -> NoReturn:
        if os.getpid() == owner:
            text = f"schwimmbad-go: rank {rank} (pid {owner} on {socket.gethostname()}) has died: a task called os._exit({status})\n"
            with contextlib.suppress(OSError):  # stderr is closed: nobody to tell
                os.write(2, text.encode())
            status = status or 1
        real(status)

    _set_exit(leave)
    return real


def _set_exit(function: Callable[[int], NoReturn]) -> None:
    for module in (os, posix):  # pickled, it goes by the second name
        vars(module)["_exit"] = function


def serve(link: Link, initializer: Initializer, max_tasks: int) -> NoReturn:
    """Serve until the master's program ends, then leave this one.

    Ctrl-C is the master's to handle: hydra sends it to every rank.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    real_exit = guard_exit(link.rank)
    try:
        Server(link, initializer, max_tasks).serve()
    except BaseException:  # a fault of ours or of MPI's: without this rank the job cannot go on
        traceback.print_exc()
        link.job.abort(1)
    _set_exit(real_exit)
    signal.signal(signal.SIGINT, before)
    sys.exit(0)


__all__ = ["serve"]
