# The table of idservice, a role for instances that serve ids, and one for operators of the counters. The
# policies are those of cloudformation/table.yaml.

data "aws_caller_identity" "here" {}

data "aws_partition" "here" {}

resource "aws_dynamodb_table" "counters" {
  name                        = var.table_name
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "pk"
  deletion_protection_enabled = true

  attribute {
    name = "pk"
    type = "S"
  }

  point_in_time_recovery {
    enabled = true
  }

  dynamic "server_side_encryption" {
    for_each = var.kms_key_arn[*]
    content {
      enabled     = true
      kms_key_arn = server_side_encryption.value
    }
  }

  tags = var.tags

  lifecycle {
    prevent_destroy = true # a table that is lost repeats every id
  }
}

locals {
  table = aws_dynamodb_table.counters.arn

  # ForAllValues is also true for a request without keys, which Null excludes. A transaction is judged by its parts.
  own_items = {
    "ForAllValues:StringLike" = {
      "dynamodb:LeadingKeys" = [
        "identity", "catalogue", "entry:*", "ctr:*", "tally:*", "add:*", "keys:*", "use:*", "uses:*",
      ]
    }
    "Null" = { "dynamodb:LeadingKeys" = "false" }
  }
  # Tallies, their adds, access keys and usage are created by updates.
  put_items = {
    "ForAllValues:StringLike" = { "dynamodb:LeadingKeys" = ["identity", "catalogue", "entry:*", "ctr:*"] }
    "Null"                    = { "dynamodb:LeadingKeys" = "false" }
  }

  # DynamoDB uses the table's key on behalf of the role that calls it. The policy of the key must allow that too.
  key = [for key in var.kms_key_arn[*] : {
    Sid      = "Key"
    Effect   = "Allow"
    Action   = ["kms:Decrypt"]
    Resource = key
    Condition = {
      StringEquals = {
        "kms:ViaService" = "dynamodb.${local.region}.${data.aws_partition.here.dns_suffix}"
      }
    }
  }]
  region = split(":", local.table)[3]

  serve = concat(
    local.key,
    [
      {
        Sid      = "Table"
        Effect   = "Allow"
        Action   = ["dynamodb:DescribeTable", "dynamodb:Scan"]
        Resource = local.table
      },
      {
        Sid       = "Items"
        Effect    = "Allow"
        Action    = ["dynamodb:GetItem", "dynamodb:UpdateItem"]
        Resource  = local.table
        Condition = local.own_items
      },
    ],
    [for item in var.adopted[*] : {
      Sid      = "AdoptedTable"
      Effect   = "Allow"
      Action   = ["dynamodb:DescribeTable"]
      Resource = item.table_arn
    }],
    [for item in var.adopted[*] : {
      Sid      = "AdoptedItem"
      Effect   = "Allow"
      Action   = ["dynamodb:GetItem", "dynamodb:UpdateItem"]
      Resource = item.table_arn
      Condition = {
        "ForAllValues:StringEquals" = { "dynamodb:LeadingKeys" = [item.key] }
        "Null"                      = { "dynamodb:LeadingKeys" = "false" }
      }
    }],
  )

  operate = concat(
    [
      {
        Sid    = "Table"
        Effect = "Allow"
        Action = [
          "dynamodb:DescribeContinuousBackups",
          "dynamodb:DescribeTimeToLive",
          "dynamodb:UpdateContinuousBackups",
        ]
        Resource = local.table
      },
      {
        Sid       = "Items"
        Effect    = "Allow"
        Action    = ["dynamodb:PutItem"]
        Resource  = local.table
        Condition = local.put_items
      },
    ],
    [for item in var.adopted[*] : {
      Sid      = "AdoptedTable"
      Effect   = "Allow"
      Action   = ["dynamodb:DescribeTimeToLive"]
      Resource = item.table_arn
    }],
  )
}

resource "aws_iam_policy" "serve" {
  name        = "${var.serve_role_name}-serve"
  description = "What idservice does while it serves ids"
  tags        = var.tags
  policy      = jsonencode({ Version = "2012-10-17", Statement = local.serve })
}

resource "aws_iam_policy" "operate" {
  name        = "${var.operate_role_name}-operate"
  description = "What the commands of idservice do, beyond what serving does"
  tags        = var.tags
  policy      = jsonencode({ Version = "2012-10-17", Statement = local.operate })
}

resource "aws_iam_role" "serve" {
  name        = var.serve_role_name
  description = "idservice, serving ids"
  tags        = var.tags
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = [var.served_by] }
      Action    = ["sts:AssumeRole", "sts:TagSession"]
    }]
  })
}

resource "aws_iam_role" "operate" {
  name        = var.operate_role_name
  description = "The commands of idservice, for principals of this account that may take the role"
  tags        = var.tags
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect = "Allow"
      Principal = {
        AWS = "arn:${data.aws_partition.here.partition}:iam::${data.aws_caller_identity.here.account_id}:root"
      }
      Action = ["sts:AssumeRole"]
    }]
  })
}

resource "aws_iam_role_policy_attachment" "serve" {
  role       = aws_iam_role.serve.name
  policy_arn = aws_iam_policy.serve.arn
}

resource "aws_iam_role_policy_attachment" "operate" {
  for_each   = { serve = aws_iam_policy.serve.arn, operate = aws_iam_policy.operate.arn }
  role       = aws_iam_role.operate.name
  policy_arn = each.value
}
