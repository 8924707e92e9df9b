"""What an example becomes: token ids in the chat format, and packed rows."""
