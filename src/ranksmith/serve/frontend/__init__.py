"""A front end: speaks HTTP, keeps every admitted request until it is answered, and never touches a model or a pixel."""
