"""Keys matched without any graph, beside mappers that work on names and shapes."""
