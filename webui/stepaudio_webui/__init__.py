"""Web demo: voice chat, transcription, speech and a look inside, for people without a terminal."""
