# orders/models.py
from django.db import models

from orders.ids import order_id


class Order(models.Model):
    id = models.BigIntegerField(primary_key=True, default=order_id, editable=False)
    text = models.TextField()
