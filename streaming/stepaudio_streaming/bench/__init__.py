"""Simulated speakers that measure a realtime server from outside."""
