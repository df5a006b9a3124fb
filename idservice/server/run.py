"""The command `serve`: one process, or a supervisor with its workers."""

import argparse

from idservice.observability import logs
from idservice.server import loop, process, sockets
from idservice.server.settings import STORE_DEFAULT, ServeSettings, taken
from idservice.server.workers.link import SupervisorLink
from idservice.server.workers.supervisor import Supervisor
from idservice.stores import preload


def serve(arguments: argparse.Namespace) -> int:
    """Serve until a stop signal."""
    settings = taken(ServeSettings, arguments)

    def set_up_logs(worker: int | None = None) -> None:
        logs.set_up(settings.log, access=settings.access_log, worker=worker)

    set_up_logs()
    with sockets.bound(settings.listen, settings.admin_listen) as bound:
        if settings.workers == 1:
            return loop.run(process.serve(settings, bound))

        def work(link: SupervisorLink, first: bool) -> int:
            set_up_logs(link.number)
            mine = settings if first else process.without_creation(settings)
            return loop.run(process.serve(mine, bound, link))

        preload(settings.store or STORE_DEFAULT)
        loop.factory()  # imports uvloop, so that the workers share its memory
        return Supervisor(bound, settings.workers, work).run()
