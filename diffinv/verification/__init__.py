"""Is it right? Every method held against laws that are known exactly."""
