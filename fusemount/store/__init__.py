"""The local store: where fetched bytes wait for their readers, and for how long they stay."""
