"""Empty: the class ``AutoBatching`` of emcache 1.3 is part of the core.

The option ``autobatching`` of :func:`emcache.create_client` switches it on and off.
"""
