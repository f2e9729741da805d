"""Empty: the class ``Node`` of emcache 1.3 is part of the core now.

:class:`emcache.ConnectionPool` has the connections to one node.
"""
