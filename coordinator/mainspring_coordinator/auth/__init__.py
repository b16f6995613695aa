"""Who may call which method of this coordinator, and how often."""
