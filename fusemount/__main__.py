"""`python -m fusemount`: the command line, for where its script is not on the path."""

from fusemount.cli import main

if __name__ == "__main__":
    main()
