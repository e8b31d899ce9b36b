"""Carrying runs out: a queue of child processes, restartable, with a forecast and a budget."""
