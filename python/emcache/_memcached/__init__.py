"""Memcached's own rules, each written once: times, keys, addresses, stored formats."""
