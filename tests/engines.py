"""The DynamoDB engines the tests use: moto's server behind a lock, and dynoxide."""

import inspect
import io
import logging
import os
import platform
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import boto3
import botocore.client
from botocore import compat, hooks, useragent
from botocore.loaders import JSONFileLoader, Loader
from botocore.model import ServiceModel

from idservice.stores.dynamodb import credentials
from tests.ports import port_of

DYNOXIDE = (
    Path(__file__).parent.parent / ".engines/node_modules/@dynoxide/linux-x64/dynoxide"
).resolve()
REGION = "eu-west-1"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}

_by_url: dict[str, Any] = {}  # plain clients: one takes as long to make as ten requests


def clean_environment() -> dict[str, str]:
    """The environment without the settings of whoever runs the tests, and with dummy keys."""
    ours = ("IDSERVICE_", "AWS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | ENVIRONMENT


def read_models_once() -> None:
    """From now on: the AWS library looks through its descriptions of services for each client,
    for 0.1 s. And for each session it works out names and signatures of its own hooks, for 10 ms,
    and for each request the parts of its name.
    """
    load = cache(partial(JSONFileLoader.load_file, JSONFileLoader()))
    JSONFileLoader.load_file = lambda self, path: load(path)
    services = cache(partial(Loader.list_available_services, Loader()))
    Loader.list_available_services = lambda self, type_name: services(type_name=type_name)
    renamed = cache(partial(hooks.EventAliaser._alias_event_name, hooks.EventAliaser(None)))
    hooks.EventAliaser._alias_event_name = lambda self, name: renamed(name)
    hooks.accepts_kwargs = _takes_any_keyword
    component = useragent.UserAgentComponent
    component.to_string = cache(component.to_string)
    models: dict[str, ServiceModel] = {}

    def described(description: Any, service_name: str) -> ServiceModel:
        if service_name not in models:
            models[service_name] = ServiceModel(description, service_name=service_name)
        return models[service_name]

    botocore.client.ServiceModel = described


def _takes_any_keyword(function: Any) -> Any:
    """What `inspect.getfullargspec` says, which takes ten times as long."""
    code = getattr(function, "__code__", None)
    if code is None:
        return compat.accepts_kwargs(function)
    return code.co_flags & inspect.CO_VARKEYWORDS


def share_a_session() -> None:
    """From now on: stores that find no other settings than those of the tests have one session. To
    make one, and the first client of one, takes as long as four requests. No store changes it."""
    look_up, found = credentials.look_up, list[tuple[Any, Any]]()
    connector = dict(credentials.CONNECTOR)  # a session keeps a copy, so that no test changes one

    async def once() -> tuple[Any, Any]:
        its = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        if its != ENVIRONMENT or connector != credentials.CONNECTOR:
            return await look_up()
        if not found:
            found.append(await look_up())
        return found[0]

    credentials.look_up = once


@contextmanager
def moto() -> Iterator[str]:
    """The URL of moto's DynamoDB while it runs.

    One request at a time: moto changes items without a lock and renders its answers from them
    afterwards, so that it loses updates and shows two writers one value.
    """
    from moto import backends
    from moto.core import responses, serialize
    from moto.core.request import Request
    from moto.dynamodb.parsing.expressions import UpdateExpressionParser
    from moto.dynamodb.responses import DynamoHandler
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for each request
    modules = tuple(backends.list_of_moto_modules())
    backends.list_of_moto_modules = lambda: modules  # read from the disk at each request
    responses.method_names_from_class = cache(responses.method_names_from_class)  # the same
    by_any_name = serialize.ResponseSerializer.get_value

    def by_its_name(self: Any, value: Any, key: str, shape: Any) -> Any:
        """A plain answer has no other names for its keys; moto looks for ten at each."""
        return value.get(key) if type(value) is dict else by_any_name(self, value, key, shape)

    serialize.ResponseSerializer.get_value = by_its_name
    UpdateExpressionParser.make = cache(UpdateExpressionParser.make)  # twice for each update
    everything, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def one_at_a_time(environ: Any, start_response: Any) -> list[bytes]:
        with lock:
            return list(everything(environ, start_response))

    class Direct(Request):
        from_wsgi_server = True

    class Lasting(MotoRequestHandler):
        """Keeps the connections of DynamoDB's clients, as DynamoDB does. Werkzeug would close each
        after one request, and moto would look for DynamoDB among all services each time."""

        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet an answer: the second of two would wait for a late ACK

        def run_wsgi(self) -> None:
            if not self.headers.get("X-Amz-Target", "").startswith("DynamoDB_"):
                super().run_wsgi()
                return
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = Direct(self.make_environ() | {"wsgi.input": io.BytesIO(body)})
            try:
                with lock:
                    status, headers, text = DynamoHandler.dispatch(request)
            except Exception:
                logging.getLogger("werkzeug").exception("moto failed")
                self.send_error(500)
                return
            answer = text.encode()
            self.send_response(status)
            for name, value in (headers | {"Content-Length": len(answer)}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

    server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True, request_handler=Lasting)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with _closing(f"http://127.0.0.1:{server.port}") as url:
            yield url
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def why_no_dynoxide() -> str:
    """Why dynoxide cannot be used here; empty where it can."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return "dynoxide is used on Linux on x86-64 only"
    return "" if DYNOXIDE.exists() else "dynoxide is not installed: run `make engines`"


@contextmanager
def dynoxide(folder: Path) -> Iterator[str]:
    """The URL of a dynoxide that keeps its tables in memory; its output goes into `folder`."""
    log = folder / "dynoxide.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [DYNOXIDE, "serve", "--host", "127.0.0.1", "--port", "0"],
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            while (port := port_of(process.pid)) is None:
                assert process.poll() is None, log.read_text()
                os.sched_yield()
            with _closing(f"http://127.0.0.1:{port}") as url:
                yield url
        finally:
            process.terminate()
            process.wait()


@contextmanager
def by_hand(url: str) -> Iterator[Any]:
    """A plain client, as an operator or an old endpoint uses one."""
    if url not in _by_url:
        _by_url[url] = boto3.client("dynamodb", region_name=REGION, endpoint_url=url)
    yield _by_url[url]


@contextmanager
def _closing(url: str) -> Iterator[str]:
    """The URL of an engine, whose plain client is closed before it ends."""
    try:
        yield url
    finally:
        if url in _by_url:
            _by_url.pop(url).close()


def recreate(client: Any, table: str) -> None:
    """A table as a restore leaves it: the same items under the same name, another identity."""
    copy = client.scan(TableName=table)["Items"]
    described = client.describe_table(TableName=table)["Table"]
    client.update_table(TableName=table, DeletionProtectionEnabled=False)
    client.delete_table(TableName=table)
    client.create_table(
        TableName=table,
        KeySchema=described["KeySchema"],
        AttributeDefinitions=described["AttributeDefinitions"],
        BillingMode="PAY_PER_REQUEST",
    )
    for item in copy:
        client.put_item(TableName=table, Item=item)


def attribute(value: object) -> dict[str, str]:
    """A Python value as DynamoDB writes it: numbers as numbers, text as text."""
    return {"S": value} if isinstance(value, str) else {"N": str(value)}
