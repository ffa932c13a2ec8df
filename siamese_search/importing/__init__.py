"""Networks from elsewhere as encoders, and encoders for programs elsewhere."""
