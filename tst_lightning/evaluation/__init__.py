"""Downstream evaluation with lm-eval on the model in memory."""
