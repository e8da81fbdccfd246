"""What to do about failures that Salt's own states report without a remedy."""
