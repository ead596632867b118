"""Client of the Pagewire inference service."""
