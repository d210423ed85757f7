"""Sources that carry their own graph: exported, mapped back, and judged."""
