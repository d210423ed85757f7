"""Streaming: write a checkpoint in shards, tensor by tensor, and go on where an earlier run ended."""
