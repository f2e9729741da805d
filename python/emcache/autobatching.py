"""Empty: the class ``AutoBatching`` of emcache 1.3 is part of the core now.

The option ``autobatching`` of :func:`emcache.create_client` turns it on and off.
"""
