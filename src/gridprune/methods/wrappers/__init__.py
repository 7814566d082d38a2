"""Methods that hold another method and change what it sees or what becomes of its choice."""
