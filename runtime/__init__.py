"""What any program here stands on: errors, files, hardware, processes. Knows no model, no text and no data."""
from runtime.not_a_script import refuse_to_run_a_library

refuse_to_run_a_library()
