"""What the program does, against ports that it declares itself."""
