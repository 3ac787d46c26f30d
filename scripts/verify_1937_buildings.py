"""Run the step verify; by default for the first case, Trondheim 1937. See --help."""

from historymap_lib.cli import step_main

if __name__ == "__main__":
    raise SystemExit(step_main("verify"))
