"""Language models: one decoder for every family, and the readers of their files."""
