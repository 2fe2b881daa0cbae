"""The .hark file and the arithmetic that it stands for."""
