"""A status of all workers that one of them asked for, until it is complete or due."""

from dataclasses import dataclass

from idservice.server.workers.process import WorkerProcess


@dataclass(slots=True)
class Collecting:
    """A pending answer to one worker, sent once all `missing` reported, or when it is `due`."""

    asker: WorkerProcess
    number: int  # of the request for reports
    missing: list[WorkerProcess]
    due: float
    full: bool

    def over(self, now: float) -> bool:
        return now >= self.due or all(
            worker.hung_up or worker.reported >= self.number for worker in self.missing
        )
