"""What the destination lacks: its weights as one vector, how far it is known, and the systems there."""
