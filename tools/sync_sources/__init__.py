"""How each file of the synchronous client is written from its source."""
