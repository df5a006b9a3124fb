output "table_arn" {
  value = aws_dynamodb_table.counters.arn
}

output "serve_role_arn" {
  value = aws_iam_role.serve.arn
}

output "operate_role_arn" {
  value = aws_iam_role.operate.arn
}

output "serve_policy_arn" {
  value = aws_iam_policy.serve.arn
}
