"""The command `serve`: from what was said to one process, or to a parent and its workers."""

import argparse

from idservice.allocation.local_counter import Limits
from idservice.observability import logs
from idservice.server import address, loop, process
from idservice.server import settings as config
from idservice.server.workers.link import SupervisorLink
from idservice.server.workers.supervisor import Supervisor
from idservice.stores import preload
from idservice.web.app import WebLimits


def serve(arguments: argparse.Namespace) -> int:
    """Serve until a stop signal."""

    def set_up_logs(worker: int | None = None) -> None:
        logs.set_up(arguments.log, access=arguments.access_log, worker=worker)

    set_up_logs()
    settings = _settings(arguments)
    with address.bound(arguments.listen, arguments.admin_listen) as sockets:
        if arguments.workers == 1:
            loop.run(process.serve(settings, sockets))
            return 0

        def work(link: SupervisorLink, first: bool) -> int:
            set_up_logs(link.number)
            mine = settings if first else process.without_creation(settings)
            loop.run(process.serve(mine, sockets, link))
            return 0

        preload(settings.store or config.STORE_DEFAULT)
        loop.factory()  # imports uvloop, for the workers to share its memory too
        return Supervisor(sockets, arguments.workers, work).run()


def _settings(arguments: argparse.Namespace) -> process.Settings:
    return process.Settings(
        store=arguments.store,
        init=arguments.init,
        default_counter=arguments.default_counter,
        route=arguments.route,
        store_wait=arguments.store_wait,
        hold=arguments.hold,
        connections_max=max(1, arguments.connections_max // arguments.workers),
        drain=arguments.drain,
        limits=Limits(
            runway=arguments.runway,
            wait=arguments.wait,
            waiters_max=arguments.waiters_max,
            block_max=max(arguments.block_max, arguments.range_max),
        ),
        web=WebLimits(
            batch_max=arguments.batch_max,
            range_max=arguments.range_max,
            metrics_counters=arguments.metrics_counters,
        ),
        otel=arguments.otel,
    )
