"""The engine: pure decisions. Events and a time go in, effects come out; it holds no clock, no chance and no I/O."""
