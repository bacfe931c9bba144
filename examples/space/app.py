"""A Space that shows a migration. README.md says which variables choose the adapter, the bank and the items."""

from puma_hub.space import build_app, content_from_variables, launch

app = build_app(content_from_variables())

if __name__ == "__main__":
    launch(app)
