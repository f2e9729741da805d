"""The settings of the site; CACHES, SESSION_ENGINE and LOGGING are about emcache."""

import os

SECRET_KEY = os.environ.get("SECRET_KEY", "only-for-this-example")
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "news.views"
INSTALLED_APPS = ["django.contrib.sessions", "news"]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SITE_DB", "site.db"),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]

CACHES = {
    "default": {
        "BACKEND": "emcache.contrib.django.EmcacheCache",
        "LOCATION": os.environ.get("EMCACHE_SERVERS", "127.0.0.1:11211").split(","),
        "KEY_PREFIX": "site",
        "TIMEOUT": 300,
        # Without its cache, the site is slower, but up.
        "OPTIONS": {"timeout": 0.5, "ignore_errors": True},
    }
}
# Sessions are read from the cache, and written to both: users stay logged in after an eviction.
SESSION_ENGINE = "django.contrib.sessions.backends.cached_db"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    # Without a handler, the warnings about nodes would be lost.
    "loggers": {"emcache": {"handlers": ["console"], "level": "INFO"}},
}
