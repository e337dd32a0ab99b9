"""Made-up shops with known truth: orders that are nobody's."""
