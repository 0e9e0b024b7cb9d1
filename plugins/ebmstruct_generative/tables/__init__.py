"""Tables: CSV files of mixed columns, their schema, an exact mixture energy, rules, and writing new rows."""
