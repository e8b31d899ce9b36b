"""Losses that training adds to the main one: heads for further tokens, the balance of experts."""
