"""Budgets, places of tokens, zones and scores: pure tensor code that knows no model and no method."""
