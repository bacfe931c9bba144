"""A small Hugging Face Hub on 127.0.0.1 for tests: the unmodified clients talk to it over HTTP.

Use it from a test
------------------
::

    def test_something(hub, login, tmp_path):
        login("alice")                                   # HF_TOKEN of a user; login(None) logs out
        HfApi().create_repo("alice/adapter", private=True)
        HfApi().upload_folder(repo_id="alice/adapter", folder_path=tmp_path)
        hub.clear_requests()
        login("bob")
        hub.empty_cache()                                # from here on another, empty cache
        ...
        assert hub.opened("alice/adapter") == {"config.json"}

Fixtures (``tests/hub_server/fixtures.py``, known to every test through ``tests/conftest.py``):

- ``hub``: the running :class:`~tests.hub_server.fixtures.Hub`, without repositories, faults or recorded requests, and
  an empty client cache. ``HF_ENDPOINT`` points to it in this process and its children. No token is set.
- ``login(user, right="write")``: set ``HF_TOKEN`` for the rest of the test; ``login(None)`` removes it.
- ``api``: ``HfApi()`` of alice, who is logged in.
- ``quick_retries``: the clients' waits between retries last a hundredth of their time, in this process only.

Without ``hub`` the server still answers: an unknown repository is "not found" at once, never 23 seconds of retries.

Users and rights
----------------
``alice`` and ``bob`` are users, ``lab`` is an organisation where alice may write and bob may read.
``hub.token("alice")`` writes, ``hub.token("alice", "read")`` only reads; any other token is refused with 401.

- A private repository is "not found" for everyone but its owner: 404 with a token, 401 without, as on the real Hub.
- A gated one (``HfApi().update_repo_settings(id, gated="auto")``) shows its facts and file list to all and its files
  to the owner and to users with access (``HfApi().grant_access(id, "bob")``).
- A write with a read token, or to another's public repository, is 403.
- The clients fall back to their cache when the Hub refuses: ``hub.empty_cache()`` before acting as another user.

The server's own side
---------------------
- ``hub.endpoint``; ``hub.repository(id, repo_type="model")`` -> :class:`~tests.hub_server.storage.Repository`:
  ``.head()`` (commit id of main), ``.files(revision="main") -> {path: bytes}``,
  ``.commit({path: bytes or None}, "message")`` (without client, rights and checks; None deletes), ``.private``,
  ``.gated``.
- ``hub.create_repository(id, repo_type="model", files={...}, private=False)``: the same without a client.
- ``hub.bucket(id)`` -> :class:`~tests.hub_server.storage.Bucket`: ``.files() -> {path: bytes}``, ``.entries``,
  ``.private``. Contents are kept when a test ends, since the client does not send again what it has sent.
- ``hub.page_size = 2``: how many entries one page of a listing holds (1000).
- ``hub.requests``: every request as :class:`~tests.hub_server.records.Request` (method, path, query, user, range,
  status, sent, received, repo, filename, user_agent), in the order of arrival. ``hub.clear_requests()``.
- ``hub.opened(repo_id=None)``: names of the files whose content was requested (GET). ``hub.downloaded(repo_id=None)``:
  bytes of file content that were sent.

Faults
------
A request gets the first fault that matches it and is not used up. ``method`` and ``path_contains`` select requests (the
path includes the query). ``times`` limits how often a fault acts (None: until ``hub.clear_faults()``). ``after`` is the
number of matching requests that pass before. Each method returns the :class:`~tests.hub_server.faults.Fault`; its
``.hits`` counts.

- ``hub.fail(status, *, headers=None, body=None, ...)``: answer 401, 403, 404, 409, 429, 500, 503 instead of doing it,
  e.g. ``hub.fail(429, method="GET", path_contains="/resolve/", headers={"Retry-After": "1"}, times=2)``. The clients
  tell 401, 403 and 404 apart by ``headers={"X-Error-Code": "RepoNotFound"}`` (or GatedRepo, EntryNotFound, ...).
- ``hub.drop(...)``: close the connection before the request is read or done.
- ``hub.cut(after_bytes, ...)``: do it, then close the connection after so many bytes of the answer's body
  (0: not even the status line, e.g. a commit that is made but not confirmed).
- ``hub.slow(seconds, *, chunk=1024, ...)``: do it, and wait so long before each chunk of the answer's body.
- ``hub.tamper(change, ...)``: do it and send ``change(content)`` in place of a file's content.

Paths the clients use: ``POST /api/repos/create``, ``/api/{models,datasets}[/ID[/revision/REV]]``,
``/api/models/ID/{tree,paths-info,preupload,commit,commits,refs,branch,tag,settings,super-squash,lfs-files}/...``,
``POST /ID.git/info/lfs/objects/batch`` then ``PUT /lfs-objects/...``,
``HEAD|GET /[datasets/]ID/resolve/REV/FILE``, ``DELETE /api/repos/delete``, ``POST /api/validate-yaml``;
``/api/buckets/ID[/{tree,paths-info,batch,settings,xet-read-token,xet-write-token}]``, ``/buckets/ID/resolve/FILE``,
``POST /xet/v1/xorbs/...``, ``POST /xet/v1/shards``, ``GET /xet/v1/reconstructions/...``, ``GET /xet-data/...``.

How the clients react (observed with huggingface_hub 2.4)
---------------------------------------------------------
- Tried again, up to 6 times: a file's HEAD where nothing is cached, listings, ``preupload``, the LFS batch and PUT
  and ``HfFileSystem`` reads after 429 and 5xx; a file's GET after 429 and after a cut, from where it stopped (not
  after 5xx). Never: ``model_info``, ``create_repo`` and the commit. Use ``quick_retries``, else that is 23 seconds.
- A failed HEAD (403, 404, 409, 429, 5xx, no connection) of an uncached file ends as ``LocalEntryNotFoundError``, a
  401 as ``HfHubHTTPError``, and the missing, private or gated as ``RepositoryNotFoundError`` and ``GatedRepoError``.
- A cut connection is ``httpx2.RemoteProtocolError`` or another ``httpx2.TransportError``, not an ``OSError``; a file
  of the wrong size is an ``OSError`` ("Consistency check failed"), one of the right size with wrong bytes is believed.
- A lost answer to a commit (``hub.cut(0, path_contains="/commit/")``) raises though the commit is made.
- A ``parent_commit`` that is not the newest is 412.
- Contents of buckets go through hf_xet, which tries 429, 5xx and broken connections 5 times more, in 0.01 s and more
  here (``HF_XET_CLIENT_RETRY_BASE_DELAY``). Its errors are ``ConnectionError`` and ``RuntimeError`` with the status in
  their texts.

Limits: models, datasets and buckets only; Xet for buckets only; no pull requests, spaces, discussions or copies on the
server. Squashing a branch drops the commits and LFS files that no branch or tag holds, at once. Names that differ by
case only are the same name. Wrong card metadata are refused like on the Hub for what this project writes (YAML syntax,
license, base_model, its relation, tags, model-index). A new repository holds ``.gitattributes``.
"""

from tests.hub_server.faults import Fault
from tests.hub_server.records import Request
from tests.hub_server.server import HubServer
from tests.hub_server.storage import Bucket, Repository

__all__ = ["Bucket", "Fault", "HubServer", "Repository", "Request"]
