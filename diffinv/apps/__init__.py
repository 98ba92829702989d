"""What was asked for? One short file a command: flags become a configuration, then one call, then what is printed."""
