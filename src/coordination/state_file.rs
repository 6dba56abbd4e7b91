//! The record in a file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::decide::failover::Record;

/// A file that is always a whole record: a new one replaces it at once. A second file beside it, `<name>.lock`, is locked
/// as long as this lives, so that no two pgpilots decide by the same record.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    _lock: File,
}

#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("{0} is in use by another pgpilot")]
    Locked(String),
    #[error("{path} is not a record of pgpilot's: {source}")]
    Malformed { path: String, source: serde_json::Error },
}

impl StateFile {
    /// Takes the file, which need not exist yet.
    ///
    /// # Errors
    /// Another pgpilot has it, or its directory cannot be written to.
    pub fn open(path: &Path) -> Result<Self, StateFileError> {
        let path = resolved(path).map_err(|source| error(path, source))?;
        let lock_path = beside(&path, "lock");
        let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
        let lock = lock.map_err(|source| error(&lock_path, source))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StateFileError::Locked(path.display().to_string())),
            Err(errno) => Err(error(&lock_path, errno.into())),
        }
    }

    /// # Errors
    /// The file cannot be read, or is no record. One that does not exist is an empty record.
    pub fn load(&self) -> Result<Record, StateFileError> {
        let text = match fs::read(&self.path) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Record::default()),
            read => read.map_err(|source| error(&self.path, source))?,
        };
        let path = || self.path.display().to_string();
        serde_json::from_slice(&text).map_err(|source| StateFileError::Malformed { path: path(), source })
    }

    /// # Errors
    /// The record is not on disk.
    pub fn store(&self, record: &Record) -> Result<(), StateFileError> {
        let new = beside(&self.path, "new");
        let text = serde_json::to_vec_pretty(record)
            .map_err(|source| StateFileError::Malformed { path: self.path.display().to_string(), source })?;
        let write = || {
            let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            // The new name is on disk only when its directory is.
            let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
        };
        write().map_err(|source| error(&self.path, source))
    }
}

/// Where the file is, or is to be, behind symbolic links: by whichever name it is opened, it has one lock.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            match fs::read_link(path) {
                // To a file that does not exist yet. (A circle of links is another error.)
                Ok(target) => resolved(&directory.join(target)),
                Err(_) => Ok(fs::canonicalize(directory)?.join(path.file_name().unwrap_or_default())),
            }
        }
        found => found,
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn error(path: &Path, source: io::Error) -> StateFileError {
    StateFileError::Io { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NodeName;
    use crate::decide::failover::Progress;
    use crate::decide::position::Lsn;

    #[test]
    fn a_record_survives_and_belongs_to_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let file = StateFile::open(&path).unwrap();
        assert_eq!(file.load().unwrap(), Record::default());
        let candidate = NodeName::new("pg2").unwrap();
        let record = Record {
            epoch: 7,
            system: Some(u64::MAX),
            primary: Some(candidate.clone()),
            progress: Progress::Promoting { candidate, decided: Lsn(0x1_0000_0028) },
            abandoned: [(NodeName::new("pg9").unwrap(), Default::default())].into(),
            ..Record::default()
        };
        file.store(&record).unwrap();
        assert!(matches!(StateFile::open(&path), Err(StateFileError::Locked(_))));
        drop(file);
        assert_eq!(StateFile::open(&path).unwrap().load().unwrap(), record);
    }

    #[test]
    fn a_file_has_one_lock_whatever_it_is_called() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("state"), directory.path().join("other"));
        std::os::unix::fs::symlink("state", &other).unwrap();
        for is_there in [false, true] {
            let file = StateFile::open(&other).unwrap();
            assert!(matches!(StateFile::open(&path), Err(StateFileError::Locked(_))), "is there: {is_there}");
            file.store(&Record { epoch: 7, ..Record::default() }).unwrap();
            drop(file);
            let file = StateFile::open(&path).unwrap();
            assert_eq!(file.load().unwrap().epoch, 7);
            assert!(matches!(StateFile::open(&other), Err(StateFileError::Locked(_))), "is there: {is_there}");
        }
        assert!(fs::symlink_metadata(&other).unwrap().is_symlink());
    }

    #[test]
    fn what_is_no_record_is_not_taken_for_an_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        fs::write(&path, "{").unwrap();
        assert!(matches!(StateFile::open(&path).unwrap().load(), Err(StateFileError::Malformed { .. })));
        assert!(matches!(StateFile::open(&directory.path().join("no/state")), Err(StateFileError::Io { .. })));
    }
}
