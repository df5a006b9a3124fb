# No account is used: the provider only names the arguments that exist.
mock_provider "aws" {
  override_during = plan # nothing may be applied: the table cannot be destroyed again

  mock_resource "aws_dynamodb_table" {
    defaults = { arn = "arn:aws:dynamodb:eu-west-1:123456789012:table/counters" }
  }
  mock_resource "aws_iam_policy" {
    defaults = { arn = "arn:aws:iam::123456789012:policy/mocked" }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws", dns_suffix = "amazonaws.com" }
  }
}

run "protected" {
  command = plan
  assert {
    condition     = aws_dynamodb_table.counters.deletion_protection_enabled
    error_message = "The table can be deleted."
  }
  assert {
    condition     = aws_dynamodb_table.counters.point_in_time_recovery[0].enabled
    error_message = "The table cannot be recovered."
  }
  assert {
    condition     = aws_dynamodb_table.counters.billing_mode == "PAY_PER_REQUEST"
    error_message = "The table is not on demand."
  }
  assert {
    condition = (
      aws_dynamodb_table.counters.hash_key == "pk" &&
      [for each in aws_dynamodb_table.counters.attribute : each.type] == ["S"]
    )
    error_message = "idservice wants a partition key pk, a text, and no other."
  }
}

run "serving_creates_nothing" {
  command = plan
  assert {
    condition = toset(flatten([for each in jsondecode(aws_iam_policy.serve.policy).Statement : each.Action])) == toset([
      "dynamodb:DescribeTable", "dynamodb:GetItem", "dynamodb:Scan", "dynamodb:UpdateItem",
    ])
    error_message = "Serving may do something else."
  }
  assert {
    condition = alltrue([
      for each in jsondecode(aws_iam_policy.serve.policy).Statement : each.Resource == aws_dynamodb_table.counters.arn
    ])
    error_message = "Serving may touch something else than the table."
  }
}

run "an_adopted_item_and_no_other" {
  command = plan
  variables {
    adopted = { table_arn = "arn:aws:dynamodb:eu-west-1:123456789012:table/donation-data", key = "atomicCounter" }
  }
  assert {
    condition = [
      for each in jsondecode(aws_iam_policy.serve.policy).Statement :
      each.Condition["ForAllValues:StringEquals"]["dynamodb:LeadingKeys"] if each.Sid == "AdoptedItem"
    ] == [["atomicCounter"]]
    error_message = "Serving may touch other items of the adopted counter's table."
  }
}

run "a_principal_that_cannot_be_meant" {
  command = plan
  variables {
    served_by = "lambda.amazonaws.com"
  }
  expect_failures = [var.served_by]
}

run "a_key_of_your_own_and_tags" {
  command = plan
  variables {
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
    tags        = { team = "orders" }
  }
  assert {
    condition     = aws_dynamodb_table.counters.server_side_encryption[0].kms_key_arn == var.kms_key_arn
    error_message = "The table does not have the key."
  }
  assert {
    condition = [
      for each in jsondecode(aws_iam_policy.serve.policy).Statement :
      [each.Action, each.Resource, each.Condition.StringEquals["kms:ViaService"]] if each.Sid == "Key"
    ] == [[["kms:Decrypt"], var.kms_key_arn, "dynamodb.eu-west-1.amazonaws.com"]]
    error_message = "Serving may not use the key, or may use it for something else."
  }
  assert {
    condition = alltrue([
      for tags in [
        aws_dynamodb_table.counters.tags, aws_iam_role.serve.tags, aws_iam_role.operate.tags,
        aws_iam_policy.serve.tags, aws_iam_policy.operate.tags,
      ] : tags == tomap(var.tags)
    ])
    error_message = "Something has other tags."
  }
}
