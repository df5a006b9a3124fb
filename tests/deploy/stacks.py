"""Stacks of CloudFormation on moto: created from our templates, looked at, and taken away again."""

import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

import boto3
import yaml

from tests.engines import REGION

from .conftest import DEPLOY

TEMPLATES = DEPLOY / "cloudformation"


class Account:
    """An account on moto."""

    def __init__(self, url: str) -> None:
        self.url = url

    def client(self, service: str) -> Any:
        """A plain client."""
        return boto3.client(service, region_name=REGION, endpoint_url=self.url)  # type: ignore[call-overload]

    def reset(self) -> None:
        """Empty it, for those who use names that others may have used."""
        request = urllib.request.Request(f"{self.url}/moto-api/reset", method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200

    def create(self, stack: str, template: str, parameters: Mapping[str, str]) -> dict[str, str]:
        """What the stack puts out."""
        cloudformation = self.client("cloudformation")
        cloudformation.create_stack(
            StackName=stack,
            TemplateBody=(TEMPLATES / template).read_text(),
            Parameters=[
                {"ParameterKey": name, "ParameterValue": value}
                for name, value in parameters.items()
            ],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        (made,) = cloudformation.describe_stacks(StackName=stack)["Stacks"]
        assert made["StackStatus"] == "CREATE_COMPLETE", made
        return {each["OutputKey"]: each["OutputValue"] for each in made.get("Outputs", ())}

    def statements(self, role: str) -> list[dict[str, Any]]:
        """All that the policies of a role say."""
        iam = self.client("iam")
        found = []
        for each in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
            arn = each["PolicyArn"]
            version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
            policy = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]
            found += document(policy["Document"])
        for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
            found += document(iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"])
        return found

    def resources(self, stack: str) -> dict[str, str]:
        """What a stack made, by type; the last of each."""
        made = self.client("cloudformation").list_stack_resources(StackName=stack)
        return {
            each["ResourceType"]: each["PhysicalResourceId"]
            for each in made["StackResourceSummaries"]
        }

    def parameters(self, stack: str) -> dict[str, str]:
        """With what a stack was made, or changed last."""
        (made,) = self.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
        return {each["ParameterKey"]: each["ParameterValue"] for each in made["Parameters"]}

    def detach(self, stack: str) -> None:
        """What CloudFormation does by itself when it deletes a stack, and moto's does not."""
        iam = self.client("iam")
        resources = self.client("cloudformation").list_stack_resources(StackName=stack)
        for each in resources["StackResourceSummaries"]:
            if each["ResourceType"] == "AWS::IAM::ManagedPolicy":
                arn = each["PhysicalResourceId"]
                for role in iam.list_entities_for_policy(PolicyArn=arn)["PolicyRoles"]:
                    iam.detach_role_policy(RoleName=role["RoleName"], PolicyArn=arn)

    def forget(self, table: str) -> None:
        """Delete a table, protected or not."""
        dynamodb = self.client("dynamodb")
        if table in dynamodb.list_tables()["TableNames"]:
            dynamodb.update_table(TableName=table, DeletionProtectionEnabled=False)
            dynamodb.delete_table(TableName=table)


def document(policy: Any) -> list[dict[str, Any]]:
    """The statements of a policy. Moto writes down that of a stack's role as Python would."""
    read = yaml.safe_load(unquote(policy)) if isinstance(policy, str) else policy
    return list(read["Statement"])


@contextmanager
def stack(
    account: Account, name: str, template: str, table: str, **parameters: str
) -> Iterator[dict[str, str]]:
    """What a stack puts out, while it is there."""
    try:
        yield account.create(name, template, {"TableName": table, **parameters})
    finally:
        account.detach(name)
        account.client("cloudformation").delete_stack(StackName=name)
        account.forget(table)
