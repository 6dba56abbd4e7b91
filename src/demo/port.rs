//! Free TCP ports that stay ours.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::Error;

/// A port on 127.0.0.1 that no other cluster of this account uses, also while our server is stopped: a lock file says
/// so. Other programs know nothing of it, so binding can still fail.
#[derive(Debug)]
pub(super) struct Port {
    number: u16,
    path: PathBuf,
    _lock: File,
}

/// Below the range from which systems hand out ports for outgoing connections (Linux: 32768, others: 49152), which
/// would otherwise take the port of a stopped server.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

const TRIES: usize = 200;

impl Port {
    /// Reserves one; `directory` holds the lock files.
    pub(super) fn reserve(directory: &Path) -> Result<Self, Error> {
        (0..TRIES).find_map(|_| Self::take(directory, fastrand::u16(RANGE))).ok_or(Error::NoPort)
    }

    pub(super) fn number(&self) -> u16 {
        self.number
    }

    /// Removes the lock files of processes that are gone.
    pub(super) fn sweep(directory: &Path) {
        for path in fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
            let Ok(file) = File::open(&path) else { continue };
            if file.try_lock().is_ok() {
                let _ = fs::remove_file(&path);
            }
        }
    }

    fn take(directory: &Path, number: u16) -> Option<Self> {
        let path = directory.join(number.to_string());
        let lock = File::options().create(true).truncate(false).write(true).open(&path).ok()?;
        lock.try_lock().ok()?;
        // Its last holder may have removed the file between our opening and our locking it.
        if fs::metadata(&path).ok()?.ino() != lock.metadata().ok()?.ino() {
            return None;
        }
        let port = Self { number, path, _lock: lock };
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok().then_some(port)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // Still locked: nobody else can hold it.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_port_is_not_given_twice() {
        let directory = tempfile::tempdir().unwrap();
        let port = Port::reserve(directory.path()).unwrap();
        assert!(Port::take(directory.path(), port.number()).is_none());
        let number = port.number();
        fs::write(directory.path().join("1"), "").unwrap();
        Port::sweep(directory.path());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        drop(port);
        assert!(fs::read_dir(directory.path()).unwrap().next().is_none());
        assert!(Port::take(directory.path(), number).is_some());
    }

    #[test]
    fn a_port_in_use_is_not_taken() {
        let directory = tempfile::tempdir().unwrap();
        let used = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(Port::take(directory.path(), used.local_addr().unwrap().port()).is_none());
    }
}
