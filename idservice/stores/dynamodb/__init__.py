"""DynamoDB as a store, for many instances on one table."""

from idservice.stores.dynamodb.store import DynamoStore as DynamoStore
