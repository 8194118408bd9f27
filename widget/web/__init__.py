"""Door 1: browsers. Views hold no SQL and never speak to Openfield."""
