"""What does a comparison look like? One page with its tables, figures and pictures."""
