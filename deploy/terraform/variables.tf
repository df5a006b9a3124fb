variable "table_name" {
  description = "The table, as in --store dynamodb:TABLE."
  type        = string
  default     = "counters"
}

variable "serve_role_name" {
  description = "The role of what serves ids."
  type        = string
  default     = "idservice"
}

variable "operate_role_name" {
  description = "The role of the commands."
  type        = string
  default     = "idservice-operator"
}

variable "served_by" {
  description = "What takes the serving role. With OIDC (IRSA), attach serve_policy_arn to a role of your own."
  type        = string
  default     = "ecs-tasks.amazonaws.com"
  validation {
    condition     = contains(["ecs-tasks.amazonaws.com", "pods.eks.amazonaws.com", "ec2.amazonaws.com"], var.served_by)
    error_message = "served_by is ecs-tasks.amazonaws.com, pods.eks.amazonaws.com or ec2.amazonaws.com."
  }
}

variable "kms_key_arn" {
  description = "A key of your own for the table, in the same region. Without: the key that AWS owns."
  type        = string
  default     = null
}

variable "tags" {
  description = "The tags of the table, the roles and their policies."
  type        = map(string)
  default     = { application = "idservice" }
}

variable "adopted" {
  description = "The table of a counter that is to be adopted, and the value of its item's partition key."
  type        = object({ table_arn = string, key = string })
  default     = null
}
