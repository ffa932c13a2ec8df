"""Decision: from scores to answers; arrays in, answers out."""
