"""What any program here stands on: errors, files, hardware, processes. Knows no model, no text and no data."""
