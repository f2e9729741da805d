"""What plugs emcache into other libraries; each module needs that library."""
