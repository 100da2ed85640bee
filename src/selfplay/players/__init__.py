"""Players: language models, tables, scripted players and Nature."""
