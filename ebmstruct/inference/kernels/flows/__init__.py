"""Maximum flows, and what is made of them: cuts, roof duality, moves."""
