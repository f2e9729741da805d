"""Articles, and what their changes invalidate."""

from django.core.cache import cache
from django.db import models, transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver


class Article(models.Model):
    title = models.TextField()
    text = models.TextField()


def article_key(number):
    return f"article:{number}"


@receiver([post_save, post_delete], sender=Article)
def invalidate(instance, **kwargs):
    # After the commit: until then, other processes read and cache the old row.
    transaction.on_commit(lambda: cache.delete(article_key(instance.pk)))
