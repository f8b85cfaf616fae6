"""The BGP speaker: neighbors, what they say, and how long it holds."""
