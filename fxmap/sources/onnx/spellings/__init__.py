"""How exporters write one thing: norms, idioms, numbers, tables, roles and twins of initializers."""
