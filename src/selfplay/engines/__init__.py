"""Engines: who generates tokens and scores them."""
