"""The ranks of an MPI job as this process sees them: MPI started and ended, the communicator that pools work over.

Every rank runs the script up to `MPIPool()`. There rank 0 goes on as the master, and the others stay: they serve one pool
after the other, asleep in between, until rank 0's program ends.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from . import _engine, _libmpi
from ._functions import Snapshot

if TYPE_CHECKING:
    from ._runner import Runner
    from ._served import Zygote

FUNNELED: Final = 1
SERIALIZED: Final = 2
_PATIENCE: Final = 10.0  # seconds after which somebody who waits for other ranks is told why
_DRAIN: Final = 2.0  # seconds that ranks get to leave after the master has failed


class Job:
    """MPI in this process."""

    def __init__(self, library: _libmpi.Library) -> None:
        self.library = library
        self.lib = _engine.mpi_library(library.family)
        self.owner = os.getpid()
        self.started = not self.look().initialized  # by us: then it is ours to finalize
        self.level = self.check(self.lib.swg_mpi_start())
        self.links: list[Link] = []
        self.left = False
        self.keyval: int | None = None
        atexit.register(self.leave)

    def check(self, code: int) -> int:
        """Pass a count on, turn a code into its exception."""
        return _engine.check(self.lib, code)

    def look(self) -> _engine.MPIInfo:
        """The state of MPI."""
        info = _engine.MPIInfo()
        _engine.check(self.lib, self.lib.swg_mpi_look(info))
        return info

    def may_call(self) -> bool:
        """Whether this thread may use MPI."""
        return self.level >= SERIALIZED or bool(self.look().main_thread)

    def watch_finalize(self) -> None:
        """Let the ranks go when the script ends MPI itself: MPI_Finalize waits for all of them, and they are in our hands.

        The first thing it does is to take the attributes off COMM_SELF, and MPI can still be used there.
        """
        if self.keyval is None and "mpi4py.MPI" in sys.modules:
            from mpi4py import MPI

            self.keyval = MPI.Comm.Create_keyval(delete_fn=lambda *_: self.leave(stop=False))
            MPI.COMM_SELF.Set_attr(self.keyval, self)

    def leave(self, stop: bool = True) -> None:
        """At the end of the program: let the ranks go, then end MPI if that is ours to do."""
        if self.left or self.owner != os.getpid():
            return
        self.left = True
        if self.look().finalized:
            return
        for link in self.links:
            link.leave()
        if stop and self.started:
            self.check(self.lib.swg_mpi_stop())

    def abort(self, code: int) -> None:
        """End all ranks, within two seconds; does not return."""
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                with contextlib.suppress(OSError, ValueError):  # closed: nothing to save
                    stream.flush()
        self.lib.swg_mpi_abort(code)


_job: Job | None = None


def job(use_mpi4py: bool = True) -> Job:
    """MPI in this process, started if need be.

    Raises
    ------
    ImportError
        ``Please install mpi4py``: there is no MPI library.
    EngineError
        The engine was built without support for it, or MPI has been finalized.
    """
    global _job
    if _job is None or _job.owner != os.getpid():
        _job = Job(_libmpi.load(use_mpi4py))
    return _job


class Link:
    """A communicator of the engine's own, a duplicate of the user's.

    Making one is collective: every rank has to come.

    Parameters
    ----------
    job : Job
    comm : mpi4py.MPI.Comm or None
        None: all ranks.
    workers : int
        Worker processes per rank, 0 if the ranks run the tasks themselves; the same everywhere.
    zygote : Zygote or None
        Starts those of this rank.
    local : int
        Worker processes of rank 0, on every rank.
    """

    def __init__(self, job: Job, comm: Any, workers: int, zygote: Zygote | None, local: int = 0) -> None:
        self.job = job
        self.zygote = zygote
        self.group = None if comm is None else _group(comm)  # None: all ranks
        self.workers = workers
        self.pools = 0
        self.runner: Runner | None = None  # of the pool that was opened last
        self.snapshot = Snapshot()  # the ranks have run the same script up to here, and run it no further
        self.handle = job.check(job.lib.swg_comm_open(-1 if comm is None else comm.py2f(), watched()))
        self.rank: int = job.check(job.lib.swg_comm_rank(self.handle))
        self.size: int = job.check(job.lib.swg_comm_size(self.handle))
        if zygote is not None and self.rank > 0:
            zygote.before = local + (self.rank - 1) * workers
        began, told = time.monotonic(), False
        while not job.check(job.lib.swg_comm_ready(self.handle, 100)):
            if not told and time.monotonic() - began > _PATIENCE:
                told = True
                print(
                    f"schwimmbad-go: rank {self.rank} has waited {_PATIENCE:.0f} s for the other {self.size - 1} ranks of its "
                    "communicator. All of them have to make the pool; a rank that an earlier pool has kept cannot.",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
        job.links.append(self)

    def host_of(self, rank: int) -> str:
        """Where a rank runs, as far as it has said."""
        peer = _engine.Peer()
        self.job.check(self.job.lib.swg_comm_peer(self.handle, rank, peer))
        return str(peer.host.decode(errors="replace")) or "an unknown host"

    def leave(self) -> None:
        """Rank 0: let the others leave, and wait until they do. Others: say goodbye."""
        job, lib = self.job, self.job.lib
        if self.runner is not None and not self.runner.freed:
            self.runner.terminate()
            deadline = time.monotonic() + _DRAIN
            with contextlib.suppress(Exception):  # whatever it is, the ranks must still be told
                self.runner.join(deadline)
        if self.zygote is not None:
            self.zygote.close()
        if lib.swg_comm_broken(self.handle):
            job.abort(1)
        began, told = time.monotonic(), False
        while True:
            try:
                left = lib.swg_comm_exit(self.handle, 100)
                if left == 0:
                    return
                waited = time.monotonic() - began
                if left < 0 or lib.swg_comm_broken(self.handle) or (waited > _DRAIN and _failing()):
                    job.abort(1)
                if waited > _PATIENCE and not told:
                    told = True
                    print(
                        f"schwimmbad-go: waiting for {left} ranks whose last task still runs (Ctrl-C ends them)",
                        file=sys.stderr, flush=True,
                    )  # fmt: skip
            except KeyboardInterrupt:
                job.abort(130)


def _failing() -> bool:
    """Whether the program ends with an exception: then nobody waits for tasks that still run."""
    return getattr(sys, "last_value", None) is not None


def watched() -> int:
    """Whether ranks watch each other's death over TCP; SCHWIMMBAD_GO_LIFELINE=0 says no."""
    return int(os.environ.get("SCHWIMMBAD_GO_LIFELINE", "1") not in ("0", "no", "off"))


def find(job: Job, comm: Any) -> Link | None:
    """The link that an earlier pool made over the same ranks in the same order."""
    for link in job.links:
        if comm is None and link.group is None:
            return link
        if "mpi4py.MPI" in sys.modules:  # else there are no communicators to compare
            from mpi4py import MPI

            mine = _group(comm)
            theirs = link.group if link.group is not None else _group(None)
            if MPI.Group.Compare(mine, theirs) == MPI.IDENT:
                return link
    return None


def _group(comm: Any) -> Any:
    """The ranks of a communicator; it may be freed later. None: all ranks."""
    from mpi4py import MPI

    return (MPI.COMM_WORLD if comm is None else comm).Get_group()


def check_free(job: Job, comm: Any) -> None:
    """Raise if some of the ranks were kept by an earlier pool over another communicator: they never reach this call."""
    kept = [link for link in job.links if link.size > 1]
    if not kept:
        return
    mine = "all ranks" if comm is None else "this communicator"
    if comm is not None:
        from mpi4py import MPI

        group = _group(comm)
        if not any(
            MPI.Group.Intersection(group, link.group if link.group is not None else _group(None)).Get_size() > 1 for link in kept
        ):
            return
    raise ValueError(
        f"Tried to create an MPI pool of {mine}, but some of its ranks serve an earlier MPIPool of another communicator until the "
        "program ends. Use the same comm= for all pools of these ranks"
    )
