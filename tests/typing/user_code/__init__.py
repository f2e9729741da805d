"""What users write: mypy and pyright read it in strict mode, and it runs."""
