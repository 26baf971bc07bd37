"""The JSON Schema of the configuration file, for editors."""
