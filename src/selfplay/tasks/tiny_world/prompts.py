"""The role prompts that the embedded model was trained with; the yamls of the tiny player repeat them word for word."""

CHALLENGE = "Write one question."
JUDGE = "Score 0-7.\nQ: {question}\nA: {answer}"
UNKNOWN = "?"  # what the solver was taught to say to something that is no question of this world
