"""What the merchant's and the platform's pages share: texts in two languages, charts, the guard, one quiet design."""
