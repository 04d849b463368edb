"""The recipes on the slices they are made for, by the real TPU compiler (`make test-pods`)."""

import functools

import goldens
import pytest

pytestmark = pytest.mark.pods
plan = functools.cache(goldens.plan)


@pytest.mark.parametrize("recipe", goldens.RECIPES)
def test_recipe_fits_and_compiles_in_time(recipe):
    assert plan(recipe).fits
    assert plan(recipe).compile_seconds < 180


@pytest.mark.parametrize("recipe", goldens.RECIPES)
def test_shardings_and_collectives_are_those_of_the_golden(recipe):
    """If they are meant to change, or a compiler is new: `make golden`, and show the diff."""
    made, wanted = goldens.golden(plan(recipe)), goldens.read(recipe)
    assert made.pop("collectives").items() <= wanted.pop("collectives").items()
    assert made == wanted
