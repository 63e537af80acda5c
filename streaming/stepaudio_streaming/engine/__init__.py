"""The engine behind the protocols: one thread owns the model, all sessions share its steps."""
