"""Empty: the class ``Node`` of emcache 1.3 is part of the core.

:class:`emcache.ConnectionPool` manages the connections to one node.
"""
