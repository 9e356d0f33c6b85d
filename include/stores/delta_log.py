"""Delta's transaction log as the store uses it: what it names, and moves that no other overtook.

Every move here is made with `max_commit_retries=0`, as a compare-and-swap on the table's counter.
With retries, Delta looks for conflicts itself and sees none where two writers publish a date's
first version at once, since neither removes the other's files: readers would have both. Two that
create the table at once would both be accepted too, the second one's columns in place of the
first one's.

delta-rs forces nothing to a disk. What a move wrote to the log is forced after it, and a checkpoint
before anything that it stands for is deleted; delta-rs would do that the other way round, so that
it writes none by itself here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import TYPE_CHECKING

from include import local_files, object_stores, storage
from include.errors import CorruptData, DaybreakError, PermanentError, TransientError
from include.stores.delta_schema import PARTITION_BY, schema_of
from include.stores.history import Commit

if TYPE_CHECKING:
    from deltalake import DeltaTable, PostCommitHookProperties
    from deltalake.transaction import AddAction

# Loading a table reads every commit since its last checkpoint.
CHECKPOINT_EVERY = 20

# An object store that refuses the keys is an OSError of one of these texts, whatever it answered.
_REFUSED = ("lacked the necessary privileges", "lacked valid authentication", "Unauthenticated")

# A VACUUM deletes a superseded or uncommitted file once it is this old; retention is Daybreak's
# own.
_CONFIGURATION = {
    "delta.deletedFileRetentionDuration": "interval 3650 days",
    "delta.checkpointInterval": str(CHECKPOINT_EVERY),
}


def load(uri: str) -> DeltaTable | None:
    """The table as it stands now; None before it was created."""
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    for attempt in (1, 2):
        try:
            return DeltaTable(uri, storage_options=object_stores.options(uri))
        except TableNotFoundError:
            return None
        except Exception as error:
            if attempt == 2 or not _forgot_checkpoint(uri):
                storage.reach(uri)  # Delta does not say why it cannot use the store at all
                raise translated(error, uri) from error
    raise AssertionError("the second attempt returns or raises")


def _forgot_checkpoint(uri: str) -> bool:
    """Drop a checkpoint that a power cut emptied, and what says to read it; whether there was one.

    delta-rs does not force it before it says so. The log that it stands for is still there:
    `tidy` deletes that later than it forces the checkpoint.
    """
    folder = storage.local_path(storage.join(uri, "_delta_log"))
    if folder is None:
        return False
    empty = [path for path in folder.glob("*.checkpoint.parquet") if path.stat().st_size == 0]
    for path in (folder / "_last_checkpoint", *empty) if empty else ():
        path.unlink(missing_ok=True)
    return bool(empty)


def create(uri: str, types: dict[str, str]) -> DeltaTable | None:
    """Create the table, without rows; None where another writer came first."""
    from deltalake import CommitProperties, DeltaTable

    if (folder := storage.local_path(uri)) is not None:
        local_files.make_folder(folder)
    try:
        table = DeltaTable.create(
            uri,
            schema=schema_of(types),
            partition_by=PARTITION_BY,
            configuration=_CONFIGURATION,
            storage_options=object_stores.options(uri),
            commit_properties=CommitProperties(max_commit_retries=0),
        )
    except Exception as error:
        if load(uri) is None:
            raise translated(error, uri) from error
        return None
    _force(uri, 0)
    return table


def held(table: DeltaTable | None, as_of: dt.date) -> str | None:
    """The version whose files the table names for a date."""
    if table is None:
        return None
    found = table.partitions(file_pruning_predicate=[("as_of", "=", str(as_of))])
    versions = {str(partition["version"]) for partition in found}
    return _one_of(table, as_of, versions) if versions else None


def all_held(table: DeltaTable) -> dict[dt.date, str]:
    """The version whose files the table names, for each date that it names."""
    versions: dict[dt.date, set[str]] = {}
    for partition in table.partitions():
        as_of = dt.date.fromisoformat(str(partition["as_of"]))
        versions.setdefault(as_of, set()).add(str(partition["version"]))
    return {as_of: _one_of(table, as_of, versions[as_of]) for as_of in sorted(versions)}


def _one_of(table: DeltaTable, as_of: dt.date, versions: set[str]) -> str:
    if len(versions) > 1:
        raise CorruptData(
            f"{as_of} holds the versions {sorted(versions)} at once",
            where=table.table_uri,
            do="see who wrote to the table beside Daybreak (its Delta history tells) and delete "
            "all but one",
        )
    return next(iter(versions))


def swap(table: DeltaTable, actions: list[AddAction], types: dict[str, str], move: Commit) -> None:
    """Put these files in the place of all that the date holds, and the columns in force with them.

    Raises CommitFailedError where anything was committed since `table` was loaded.
    """
    from deltalake import CommitProperties

    table.create_write_transaction(
        actions,
        mode="overwrite",
        schema=schema_of(types),
        partition_by=PARTITION_BY,
        partition_filters=[("as_of", "=", str(move.as_of))],
        commit_properties=CommitProperties(
            custom_metadata={"userMetadata": move.model_dump_json()},  # DESCRIBE HISTORY shows it
            max_commit_retries=0,
        ),
        post_commithook_properties=_no_hooks(),
    )
    _force(table.table_uri, move.table_version)


def barrier(table: DeltaTable) -> None:
    """A commit without any change: every move that was based on the table before it fails.

    Raises CommitFailedError where anything was committed since `table` was loaded.
    """
    from deltalake import CommitProperties

    before = table.version()
    table.create_write_transaction(
        [],
        mode="append",
        schema=table.schema(),
        partition_by=PARTITION_BY,
        commit_properties=CommitProperties(
            custom_metadata={"userMetadata": "daybreak: old versions are being deleted"},
            max_commit_retries=0,
        ),
        post_commithook_properties=_no_hooks(),
    )
    _force(table.table_uri, before + 1)


def checkpoint(table: DeltaTable) -> None:
    """Write what the table names into one file, from which it is loaded from now on."""
    table.create_checkpoint()
    _force(table.table_uri, table.version())


def tidy(table: DeltaTable) -> None:
    """Write a checkpoint, and delete the log before it that is past its retention (30 days)."""
    checkpoint(table)
    table.cleanup_metadata()


def _no_hooks() -> PostCommitHookProperties:
    from deltalake import PostCommitHookProperties

    return PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


def _force(uri: str, version: int) -> None:
    """Force to the disk, where it is one, what a commit or a checkpoint of this version wrote."""
    folder = storage.local_path(storage.join(uri, "_delta_log"))
    if folder is None:
        return
    # A checkpoint before the file that says to read it.
    for name in (f"{version:020d}.json", f"{version:020d}.checkpoint.parquet", "_last_checkpoint"):
        if (path := folder / name).exists():
            local_files.force(path)
    local_files.force(folder)
    local_files.force(folder.parent)


def enable_features(table: DeltaTable, types: dict[str, str]) -> bool:
    """Give the table the feature that its timestamps without a zone need; True where it lacked it.

    A table that is created with such a column has it. The commit changes no row.
    """
    from deltalake import CommitProperties, TableFeatures

    enabled = table.protocol().reader_features or ()
    if "timestamp_ntz" not in types.values() or "timestampNtz" in enabled:
        return False
    before = table.version()
    table.alter.add_feature(
        TableFeatures.TimestampWithoutTimezone,
        allow_protocol_versions_increase=True,
        commit_properties=CommitProperties(max_commit_retries=0),
    )
    _force(table.table_uri, before + 1)
    return True


def logged_commit(table: DeltaTable, as_of: dt.date, version: str, after: int) -> Commit | None:
    """The last commit of a version in the log, past table version `after`, or None."""
    for commit in logged_commits(table):
        if commit.table_version <= after:
            break
        if (commit.as_of, commit.version) == (as_of, version):
            return commit
    return None


def logged_commits(table: DeltaTable) -> Iterator[Commit]:
    """The moves that the log still tells of, the newest first."""
    for entry in table.history():
        try:
            yield Commit.model_validate_json(entry.get("userMetadata") or "")
        except ValueError:  # a commit of someone else, such as OPTIMIZE
            continue


def translated(error: Exception, uri: str) -> Exception:
    """A fault of Delta, or of the storage below it, as one of our two kinds; others as they are."""
    from deltalake.exceptions import DeltaError, DeltaProtocolError

    if isinstance(error, DaybreakError) or not isinstance(error, (DeltaError, OSError)):
        return error
    found = f"the Delta table failed: {(str(error) or type(error).__name__).splitlines()[0]}"
    refused = any(sign in str(error) for sign in _REFUSED)
    if refused or isinstance(error, (DeltaProtocolError, PermissionError)):
        return PermanentError(found, where=uri, do="let this process read and write the table")
    return TransientError(found, where=uri, do="see that the storage is up and has room")
