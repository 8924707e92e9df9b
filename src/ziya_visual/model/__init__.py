"""What the network is: stock modules of transformers, and the packed forward that they lack."""
