"""Pictures of what was kept and why."""
