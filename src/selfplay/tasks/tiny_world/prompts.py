"""The role prompts that the embedded model was trained with; the yaml files of the tiny player repeat them verbatim."""

CHALLENGE = "Write one question."
JUDGE = "Score 0-7.\nQ: {question}\nA: {answer}"
UNKNOWN = "?"  # the reply that the solver was trained to give to texts that are not questions of this world
