"""Commands on finished sweeps: clean up, hand over a model, write its card, reproduce an experiment."""
