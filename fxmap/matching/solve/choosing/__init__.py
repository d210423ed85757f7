"""Which of the source's values a value may be, and which solution of its system is the one with the source's numbers."""
