"""What all tests share: running pytest sessions of their own."""

pytest_plugins = ["pytester"]
