"""What all tests share: pytester, by which the plugin's own behaviour is tested."""

pytest_plugins = ["pytester"]
