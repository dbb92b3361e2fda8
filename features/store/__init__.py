"""The parts of the entity store: its versions, the delta of new items, and the Redis server that can stand in for both."""
