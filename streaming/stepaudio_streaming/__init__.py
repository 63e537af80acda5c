"""Realtime engine and server of stepaudio: the OpenAI Realtime protocol and audio endpoints."""
