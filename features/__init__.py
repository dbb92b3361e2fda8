"""Everything between a log row and a KeyedJaggedTensor; serving uses the same code."""
