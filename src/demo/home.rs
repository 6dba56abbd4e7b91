//! Where clusters live: `<temporary directory>/pgpilot-<uid>/`, with one directory per cluster and the templates. A
//! cluster that need not survive the machine lives in memory, where there is room: making its three thousand files
//! takes 50 ms there, and one to two seconds on a disk.
//!
//! What a crash of the machine left behind is removed when the next cluster is made: a cluster's directory holds a
//! file that is locked for as long as the process that made it lives.

use std::env;
use std::fs::{self, DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::builder::Durability;
use super::error::{Doing, Error};
use super::guard::Guard;

/// The directory that all clusters of this account share.
#[derive(Debug, Clone)]
pub(super) struct Home {
    path: PathBuf,
}

/// One cluster's directory. Dropping it removes the directory and ends every server in it.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    guard: Guard,
    /// Unlocked when it is dropped, or when this process ends.
    _owner: File,
}

const PREFIX: &str = "cluster-";

/// Linux mounts a file system in memory here.
const MEMORY: &str = "/dev/shm";

/// Three nodes with data and `max_wal_size` each. (Containers have 64 MB there, unless told otherwise.)
const ENOUGH: u64 = 4 << 30;

/// Bytes that are free for us; 0 where there is no such directory.
fn room(directory: &Path) -> u64 {
    rustix::fs::statvfs(directory).map_or(0, |about| about.f_bavail.saturating_mul(about.f_frsize))
}

impl Home {
    pub(super) fn open(durability: Durability) -> Result<Self, Error> {
        let uid = rustix::process::geteuid().as_raw();
        let parent = match durability {
            Durability::None if room(Path::new(MEMORY)) >= ENOUGH => MEMORY.into(),
            Durability::None | Durability::Full => env::temp_dir(),
        };
        let path = parent.join(format!("pgpilot-{uid}"));
        // Others may pass through (the servers' account has to), but not look.
        let made = DirBuilder::new().mode(0o711).create(&path);
        let about = fs::symlink_metadata(&path).doing("look at", &path)?;
        if !about.is_dir() || about.uid() != uid {
            // Someone else's: whatever it is, do not use it.
            made.doing("make the directory", &path)?;
        }
        fs::set_permissions(&path, Permissions::from_mode(0o711)).doing("protect", &path)?;
        Ok(Self { path })
    }

    /// A directory within, made if it is not there.
    pub(super) fn directory(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).doing("make the directory", &path)?;
        Ok(path)
    }

    /// Makes a place for a cluster, after having removed those whose owner is gone.
    pub(super) fn place(&self) -> Result<Place, Error> {
        // Held while a place has no locked owner file yet, so that nobody takes it for an abandoned one.
        let _door = lock(&self.path.join("door.lock"))?;
        self.sweep()?;
        let path = tempfile::Builder::new()
            .prefix(PREFIX)
            .rand_bytes(6)
            .permissions(Permissions::from_mode(0o711))
            .tempdir_in(&self.path)
            .doing("make a directory in", &self.path)?
            .keep();
        let owner = lock(&path.join("owner.lock"))?;
        let guard = Guard::start(&path)?;
        Ok(Place { path, guard, _owner: owner })
    }

    fn sweep(&self) -> Result<(), Error> {
        for entry in fs::read_dir(&self.path).doing("list", &self.path)?.flatten() {
            if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
                continue;
            }
            let path = entry.path();
            let abandoned = match File::open(path.join("owner.lock")) {
                Ok(owner) => owner.try_lock().is_ok(),
                Err(_) => true,
            };
            if abandoned {
                tracing::info!(directory = %path.display(), "removing an abandoned cluster");
                Guard::start(&path)?.finish();
            }
        }
        Ok(())
    }
}

impl Place {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Ends every server in it and removes it, now.
    pub(super) fn clear(&mut self) {
        self.guard.finish();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Waits for an exclusive lock on a file, and holds it until the file is dropped.
pub(super) fn lock(path: &Path) -> Result<File, Error> {
    let file = File::options().create(true).truncate(false).write(true).open(path).doing("open", path)?;
    file.lock().doing("lock", path)?;
    Ok(file)
}
