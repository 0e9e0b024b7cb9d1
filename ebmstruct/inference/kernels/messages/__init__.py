"""Messages between rows of tables and their sites: dual ascent, belief propagation, mean field."""
