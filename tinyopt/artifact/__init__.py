"""What the user gets: C sources or libraries, a self-test, and a CMake file, written from a program."""
