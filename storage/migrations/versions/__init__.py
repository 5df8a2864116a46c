"""A module a step. Its revision is the number of the schema that it makes; released ones stay."""
