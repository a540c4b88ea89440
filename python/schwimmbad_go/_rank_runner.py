"""The runner of an MPIPool, on rank 0: its workers are ranks, which stay from one pool to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._engine import Engine
from ._functions import Encoder
from ._runner import Runner, SpawnStarter, in_band
from ._start import Initializer, blob_frame, write_setup_frame

if TYPE_CHECKING:
    from ._ranks import Link


class RankRunner(Runner):
    """Engine, ranks and ports of an MPIPool, on rank 0.

    Parameters
    ----------
    link : Link
        The ranks.
    local : int
        Worker processes on rank 0.
    initializer : Initializer
    max_tasks : int
        A worker process is replaced after so many; 0: never.
    """

    def __init__(self, link: Link, local: int, initializer: Initializer, max_tasks: int) -> None:
        self.link = link
        self.zygote = link.zygote if local else None
        super().__init__(local, "ranks", initializer, max_tasks)

    def _make_engine(self, method: str, initializer: Initializer, max_tasks: int) -> Engine:
        link = self.link
        setup = None
        if link.pools > 0:  # the ranks know the script's first pool alone
            pair = (initializer.func, initializer.args)
            data = bytes(Encoder(link.snapshot).encode(pair, in_band, "the initializer")[1])
            setup = blob_frame(data)
        engine = Engine(self.workers, max_tasks, None, (link.job.lib, link.handle, link.workers, setup))
        link.pools += 1
        return engine

    def host_of(self, rank: int) -> str:
        """Where a rank runs."""
        return self.link.host_of(rank)

    def give_way(self) -> None:
        """Another pool is to work over the ranks. What this one, which is closed, runs in the background ends first; an iterator
        that nobody has used up is cut off, or it would keep the ranks for as long as somebody holds it."""
        pump = self.pump
        if pump is not None:
            pump.join()
        self.terminate()
        self.join()

    def _close_starter(self) -> None:
        """The zygote is the link's: the next pool needs it."""
        if self.zygote is not None:
            self.zygote.forget_workers()

    def _start(self, method: str, initializer: Initializer) -> None:
        self.sends_in_place = self.engine.crew == 0  # workers on this machine would not see the caller's memory
        self.snapshot = self.link.snapshot
        self.encoder = Encoder(self.snapshot)
        self.starter = self.zygote or SpawnStarter()
        if self.zygote is not None:
            if self.link.pools > 1:
                pair = (initializer.func, initializer.args)
                write_setup_frame(self.engine, bytes(self.encoder.encode(pair, in_band, "the initializer")[1]))
            self.zygote.connect(self.engine)
            for index in range(self.workers):
                self.zygote.start(index)


__all__ = ["RankRunner"]
