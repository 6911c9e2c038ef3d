"""What people look at: the report page, the drawing of a plan, tables."""
