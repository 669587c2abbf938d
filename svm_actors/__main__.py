"""``python -m svm_actors``: the same as the ``svm-actors`` command."""

from svm_actors.cli.main import main

if __name__ == "__main__":
    main()
