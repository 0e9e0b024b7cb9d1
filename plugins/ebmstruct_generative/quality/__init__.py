"""How good generated records are: two-sample measures, measures of tables, and the report that says it in words."""
