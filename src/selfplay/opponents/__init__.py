"""Who sits across from the learner: itself, somebody else, or a population that grows with it."""
