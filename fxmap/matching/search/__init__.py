"""Search: values decide which operation is which."""
