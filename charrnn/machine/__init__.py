"""The hardware: the only folder that names a kind of device."""
