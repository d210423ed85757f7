"""Draw the inputs of an audit: shapes, ordinary samples, special values, and how much may be run."""
