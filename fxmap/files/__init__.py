"""Checkpoint files: read without running their code, written whole or not at all."""
