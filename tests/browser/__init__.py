"""What people see in a browser: `pip install -e '.[test,browser]'`, `chromium` and `chromium-driver`."""
