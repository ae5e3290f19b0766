"""The command line. Read `main` first; every command has a module of its own."""
