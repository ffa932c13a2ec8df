"""The server: galleries over HTTP, and the page. Only the command line imports it."""
