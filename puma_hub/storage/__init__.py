"""Files and folders on disk: written whole or not at all, and never over what is not ours."""

from puma_hub.storage.files import new_file, new_folder, read_json, replace_files, scratch_folder, write_json

__all__ = ["new_file", "new_folder", "read_json", "replace_files", "scratch_folder", "write_json"]
