"""The System screen: devices, engine, disk, settings, doctor."""
