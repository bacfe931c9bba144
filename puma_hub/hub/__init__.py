"""The Hub as a transport: names of repositories and tags, and what its errors mean."""
