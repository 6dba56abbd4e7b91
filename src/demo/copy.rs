//! Copying a data directory.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;

/// What a copy leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contents {
    /// Nothing: the server is stopped.
    All,
    /// What a base backup leaves out; some directories are made, but stay empty. The server is running, so files may
    /// vanish while they are copied. Source: PostgreSQL's documentation, "Making a Base Backup Using the Low Level
    /// API", and `excludeDirContents` in `src/backend/backup/basebackup.c`.
    BaseBackup,
}

const EMPTY_IN_A_BACKUP: [&str; 8] =
    ["pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"];

const NOT_IN_A_BACKUP: [&str; 8] = [
    "postmaster.pid",
    "postmaster.opts",
    "pg_internal.init",
    "postgresql.auto.conf.tmp",
    "backup_label",
    "tablespace_map",
    "standby.signal",
    "recovery.signal",
];

/// Copies a tree with modes and owners. The file system shares blocks where it can.
pub(super) fn tree(from: &Path, to: &Path, contents: Contents) -> io::Result<()> {
    let about = fs::symlink_metadata(from)?;
    if about.is_dir() {
        directory(from, to, &about, contents)?;
    } else if about.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
    } else if about.is_file() {
        fs::copy(from, to)?;
    } else {
        return Ok(());
    }
    if rustix::process::geteuid().is_root() {
        lchown(to, Some(about.uid()), Some(about.gid()))?;
    }
    Ok(())
}

fn directory(from: &Path, to: &Path, about: &Metadata, contents: Contents) -> io::Result<()> {
    fs::create_dir(to)?;
    fs::set_permissions(to, Permissions::from_mode(about.mode()))?;
    let backup = contents == Contents::BaseBackup;
    if backup && EMPTY_IN_A_BACKUP.iter().any(|name| from.ends_with(name)) {
        return Ok(());
    }
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        if backup && unwanted(&name.to_string_lossy()) {
            continue;
        }
        match tree(&from.join(&name), &to.join(&name), contents) {
            Err(error) if backup && error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

fn unwanted(name: &str) -> bool {
    NOT_IN_A_BACKUP.contains(&name) || name.starts_with("pgsql_tmp") || name.starts_with("pg_internal.init")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_leaves_out_what_belongs_to_the_running_server() {
        let place = tempfile::tempdir().unwrap();
        let from = place.path().join("from");
        for directory in ["base/1", "pg_wal", "pg_replslot/pg1"] {
            fs::create_dir_all(from.join(directory)).unwrap();
        }
        for file in ["PG_VERSION", "base/1/1259", "base/1/pg_internal.init", "pg_wal/1", "postmaster.pid"] {
            fs::write(from.join(file), "x").unwrap();
        }
        fs::set_permissions(&from, Permissions::from_mode(0o700)).unwrap();

        let all = place.path().join("all");
        tree(&from, &all, Contents::All).unwrap();
        assert!(all.join("postmaster.pid").exists() && all.join("pg_replslot/pg1").exists());
        assert_eq!(fs::metadata(&all).unwrap().mode() & 0o777, 0o700);

        let backup = place.path().join("backup");
        tree(&from, &backup, Contents::BaseBackup).unwrap();
        assert!(backup.join("base/1/1259").exists() && backup.join("pg_wal").exists());
        for absent in ["base/1/pg_internal.init", "pg_wal/1", "postmaster.pid", "pg_replslot/pg1"] {
            assert!(!backup.join(absent).exists(), "{absent}");
        }
    }
}
