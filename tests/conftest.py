"""Its place here lets every test import ``tiny``."""
