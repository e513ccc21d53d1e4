"""What a user calls: one task a module, made of the rooms below."""
