"""What API Gateway makes of a method that is integrated with DynamoDB, with nothing between.

Moto creates a method of a stack without its mapping, and carries none out. So the mapping is given
to it here, through the API, out of the template; and what the API then tells of it is carried out,
by another implementation of Velocity than Amazon's.
"""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

import yaml

from tests.engines import REGION

from .answering import answering
from .conftest import needed
from .stacks import TEMPLATES, Account

airspeed = needed("airspeed")
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller sees."""

    status: int
    headers: Mapping[str, str]
    body: str


class Input:
    """`$input` of a template: as much of it as paths of plain names need."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def path(self, path: str) -> Any:
        """What stands at a path such as `$.Attributes.next.N`; nothing where there is none."""
        found = self._body
        for name in path.removeprefix("$").split(".")[1:]:
            found = found.get(name, "") if isinstance(found, dict) else ""
        return found


def rendered(template: str, body: Any) -> str:
    """A mapping template, filled in."""
    return str(airspeed.Template(template).merge({"input": Input(body)}))


def put_mapping(account: Account, api: str, values: Mapping[str, str]) -> None:
    """Give the method of the original counter what moto leaves out; `values` are what its template
    calls by name."""
    method = _resolved(values)["Resources"]["Get"]["Properties"]
    integration = method["Integration"]
    client = account.client("apigateway")
    resources = client.get_resources(restApiId=api)["items"]
    (resource,) = [each["id"] for each in resources if "GET" in each.get("resourceMethods", {})]
    place = {"restApiId": api, "resourceId": resource, "httpMethod": method["HttpMethod"]}
    client.put_integration(
        **place, type=integration["Type"], uri=integration["Uri"],
        integrationHttpMethod=integration["IntegrationHttpMethod"],
        credentials=integration["Credentials"],
        passthroughBehavior=integration["PassthroughBehavior"],
        requestTemplates=integration["RequestTemplates"],
    )  # fmt: skip
    for each in method["MethodResponses"]:
        client.put_method_response(
            **place, statusCode=each["StatusCode"], responseParameters=each["ResponseParameters"]
        )
    for each in integration["IntegrationResponses"]:
        client.put_integration_response(
            **place, statusCode=each["StatusCode"],
            selectionPattern=each.get("SelectionPattern", ""),
            responseParameters=each["ResponseParameters"],
            responseTemplates=each["ResponseTemplates"],
        )  # fmt: skip


def _resolved(values: Mapping[str, str]) -> Any:
    """The template with names in their places."""

    class Loader(yaml.SafeLoader):
        pass

    def short(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> str:
        text = str(node.value)
        if tag == "Sub":
            return re.sub(r"\$\{([\w:.]+)\}", lambda name: values.get(name[1], ""), text)
        return values.get(text, "")

    Loader.add_multi_constructor("!", short)
    return yaml.load((TEMPLATES / "original.yaml").read_text(), Loader)


class Gateway:
    """The `GET` methods of one REST API."""

    def __init__(self, account: Account, api: str, url: str) -> None:
        self.url = url  # of DynamoDB
        client = account.client("apigateway")
        self.methods = {
            each["path"]: client.get_method(restApiId=api, resourceId=each["id"], httpMethod="GET")
            for each in client.get_resources(restApiId=api)["items"]
            if "GET" in each.get("resourceMethods", {})
        }

    @classmethod
    def of(cls, account: Account, stack: str, url: str) -> "Gateway":
        """That of the original counter's stack, with what moto leaves out."""
        made = account.resources(stack)
        role = account.client("iam").get_role(RoleName=made["AWS::IAM::Role"])["Role"]
        values = {
            "Table": made["AWS::DynamoDB::Table"], "Role.Arn": role["Arn"],
            "AWS::Partition": "aws", "AWS::Region": REGION,
        }  # fmt: skip
        api = made["AWS::ApiGateway::RestApi"]
        put_mapping(account, api, values)
        return cls(account, api, url)

    def get(self, path: str) -> Answer:
        """The answer to a `GET`, as the method's integration has it."""
        integration = self.methods[path]["methodIntegration"]
        action = re.fullmatch(
            r"arn:aws:apigateway:[\w-]+:dynamodb:action/(\w+)", integration["uri"]
        )
        assert action
        assert (integration["type"], integration["httpMethod"]) == ("AWS", "POST")
        request = rendered(integration["requestTemplates"][JSON], {})
        status, body = self._ask(action[1], request)
        return self._mapped(integration["integrationResponses"], status, body)

    def _ask(self, action: str, request: str) -> tuple[int, Any]:
        headers = {
            "X-Amz-Target": f"DynamoDB_20120810.{action}",
            "Content-Type": "application/x-amz-json-1.0",
            "Authorization": "AWS4-HMAC-SHA256 Credential=gateway/20260101/eu-west-1/dynamodb/"
            "aws4_request, SignedHeaders=host, Signature=0",
            "X-Amz-Date": "20260101T000000Z",
        }
        ready = urllib.request.Request(self.url, request.encode(), headers)
        try:
            with urllib.request.urlopen(ready, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode()
                return error.code, json.loads(text) if text.startswith("{") else {}

    def _mapped(self, responses: Mapping[str, Any], status: int, body: Any) -> Answer:
        """A status that no pattern matches is answered by the response that has none."""
        for each in sorted(responses.values(), key=lambda each: not each.get("selectionPattern")):
            pattern = each.get("selectionPattern")
            if not pattern or re.fullmatch(pattern, str(status)):
                headers = {
                    name.rpartition(".")[2]: value.strip("'")
                    for name, value in each.get("responseParameters", {}).items()
                }
                text = rendered(each["responseTemplates"][JSON], body)
                return Answer(int(each["statusCode"]), headers, text)
        return Answer(500, {}, "")


@contextmanager
def serving(gateway: Gateway) -> Iterator[str]:
    """Its URL, over HTTP, while it runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = gateway.get(self.path)
            body = answer.body.encode()
            self.send_response(answer.status)
            headers = {**answer.headers, "Content-Type": JSON, "Content-Length": str(len(body))}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler) as url:
        yield url
