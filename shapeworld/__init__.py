"""The embedded default: a rendered open-vocabulary world, its teacher and its photos."""
