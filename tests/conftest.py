"""What holds for every test."""

from hypothesis import settings

# How long one example takes says nothing on a machine that others use too; pytest's own timeout bounds the whole.
settings.register_profile("marketfeed", deadline=None)
settings.load_profile("marketfeed")
