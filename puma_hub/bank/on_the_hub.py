"""A bank's ways to the Hub, as methods of :class:`puma_hub.PromptBank`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from puma_hub.bank.peft import PeftExchange
from puma_hub.bank.shards import DEFAULT_SHARD_SIZE

if TYPE_CHECKING:
    from huggingface_hub import BucketUrl, CommitInfo


class HubExchange(PeftExchange):
    """Part of :class:`puma_hub.PromptBank`."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = True,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        license: str | None = None,
        max_shard_size: int | str = DEFAULT_SHARD_SIZE,
    ) -> CommitInfo:
        """Publish prompts, provenance, head and card in one commit, which replaces the repository's contents.

        Rows are sorted by user id, so that some users can be read without the rest.

        Args:
            private: give False to publish in a repository that anyone can read. An existing repository keeps its
                visibility.
            revision: a branch. It is created if it does not exist.
            license: an identifier of the Hub, such as ``cc-by-4.0``; never guessed.
            max_shard_size: the size of a file, such as ``"500MB"``.

        Returns:
            The commit, with ``repo_url``, ``commit_url`` and ``oid``.

        Raises:
            ConfigurationError: the repository is public and ``private`` is true, or an argument cannot be used.
            HubError: the Hub refuses, or cannot be reached. Its newest revision is complete in any case.
        """
        from puma_hub.bank.publish import publish_bank

        bank: Any = self
        return publish_bank(
            bank,
            repo_id,
            private=private,
            token=token,
            revision=revision,
            commit_message=commit_message,
            license=license,
            max_shard_size=max_shard_size,
        )

    def push_to_bucket(
        self,
        address: str,
        *,
        private: bool = True,
        token: str | bool | None = None,
        license: str | None = None,
        max_shard_size: int | str = DEFAULT_SHARD_SIZE,
    ) -> BucketUrl:
        """Publish prompts, provenance and head in a Storage Bucket, in place of the bank that was there.

        A bucket has no history: the files of the bank before are deleted from it. It has no card and no revisions.
        Whoever loads the bank meanwhile gets the old one or the new one. Let one process write at a time.

        Args:
            address: ``hf://buckets/namespace/name``, or a folder in the bucket, ``hf://buckets/namespace/name/folder``.
                The bucket is made if it does not exist.
            private: give False to publish in a bucket that anyone can read. An existing one keeps its visibility.
            license: an identifier of the Hub, such as ``cc-by-4.0``, which ``bank.json`` records; never guessed.
            max_shard_size: the size of a file, such as ``"500MB"``.

        Returns:
            The bucket's address, with ``bucket_id`` and ``url``.

        Raises:
            ConfigurationError: the bucket is public and ``private`` is true, or an argument cannot be used.
            HubError: the Hub refuses, or cannot be reached; or somebody else wrote the bank at the same time. The same
                call again puts the bank there and deletes what was left.
        """
        from puma_hub.bank.bucket_changes import publish_to_bucket

        bank: Any = self
        return publish_to_bucket(
            bank, address, private=private, token=token, license=license, max_shard_size=max_shard_size
        )
