"""What a user calls before a model goes to a device."""
