"""Times generation with this plugin and with other systems, on the same random weights."""
