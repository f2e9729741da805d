"""Real servers, and a scripted one, for the tests."""
