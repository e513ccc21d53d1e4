"""Files whose zeros are not stored, where the runtime gains by it."""
