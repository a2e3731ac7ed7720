"""The units of work that measures build on: data, models, poisoned sets, adversarial images."""
