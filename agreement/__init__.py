"""What platform and merchant agree on and can prove: signed offers of plans, signed models, signed requests."""
