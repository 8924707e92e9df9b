"""Image-text data made by a language model over HTTP: checked, nothing lost, nothing paid twice."""
