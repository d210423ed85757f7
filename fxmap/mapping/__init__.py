"""The mapping from source keys to destination keys: its expressions, findings, proof, report and files."""
