"""`fxmap demo`: the user's own case, measured."""
