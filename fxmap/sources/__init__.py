"""Sources that carry their own graph: files and programs that are models without their code."""
