"""What the user asks for: recipes, and the TOML documents that they and targets are written in."""
