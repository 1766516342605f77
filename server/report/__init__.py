"""report.html of a finished run, drawn from its folder alone; a simulator adds what it knows."""
