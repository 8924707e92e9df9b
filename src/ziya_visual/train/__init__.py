"""How a model learns: the pre-trained parts of the miniature, and the stages of a recipe."""
